"""A small convolutional classifier of clips, such as spoken digits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from open_miipher.audio.mel import LogMel, MelConfig
from open_miipher.base.errors import UserError, report

_MOST_FEATURES = 64
_GROUP = 8  # channels that are normalised together
_MEAN, _SCALE = -5.0, 4.0  # of log-mels of speech, roughly


def _mel() -> MelConfig:
    return MelConfig(16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, f_max=8000.0)


@dataclass
class ConvolutionalConfig:
    """Sizes of the network.

    Attributes:
        mel: the front end; clips of another rate are resampled to its rate before.
        channels: of each block, which halves time and bands; multiples of 8.
        features: of a clip, from which the labels come; a multiple of 8, at most 64, or the
            covariance of a few hundred clips' features would be singular.
        dropout: of the features.
    """

    mel: MelConfig = field(default_factory=_mel)
    channels: list[int] = field(default_factory=lambda: [16, 32, 48])
    features: int = 64
    dropout: float = 0.2

    def check(self) -> None:
        """Check the numbers.

        Raises:
            UserError: some do not fit; the message lists each.
        """
        rules = {
            "channels must be multiples of 8, at least one": (
                bool(self.channels) and all(c > 0 and c % _GROUP == 0 for c in self.channels)
            ),
            f"features={self.features} must be a multiple of 8 and at most {_MOST_FEATURES}": (
                0 < self.features <= _MOST_FEATURES and self.features % _GROUP == 0
            ),
            "mel.n_mels is too small for so many blocks": (
                self.mel.n_mels >> len(self.channels) >= 1
            ),
        }
        report([rule for rule, kept in rules.items() if not kept])


class Convolutional(nn.Module):
    """Log-mel spectrum, blocks of 3×3 convolutions, one over all bands, mean over time, labels.

    Args:
        labels: their names, sorted.
        num_samples: length of a clip at the front end's rate.
        config: sizes.

    Attributes:
        labels: names of the outputs.
        sample_rate: of the waveforms, in Hz.
        num_samples: length of a clip.

    Raises:
        UserError: a number does not fit.
    """

    Config = ConvolutionalConfig

    def __init__(
        self, labels: Sequence[str], num_samples: int, config: ConvolutionalConfig
    ) -> None:
        super().__init__()
        config.check()
        self.labels, self.num_samples = tuple(labels), num_samples
        self.sample_rate = config.mel.sample_rate
        if num_samples < config.mel.hop_length << len(config.channels):
            raise UserError(f"clips of {num_samples} samples are too short for this classifier")
        self.log_mel = LogMel(config.mel)
        widths = [1, *config.channels]
        self.blocks = nn.Sequential(*(_block(*pair) for pair in pairwise(widths)))
        bands = config.mel.n_mels >> len(config.channels)  # those that are left
        self.last = nn.Sequential(
            nn.Conv2d(widths[-1], config.features, (bands, 3), padding=(0, 1), bias=False),
            nn.GroupNorm(config.features // _GROUP, config.features),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.features, len(self.labels))

    def features(self, waveform: Tensor) -> Tensor:
        """Return what the labels are made from.

        Args:
            waveform: (batch, num_samples) at `sample_rate`.

        Returns:
            (batch, features).
        """
        bands = ((self.log_mel(waveform) - _MEAN) / _SCALE).transpose(1, 2)
        return self.last(self.blocks(bands[:, None])).mean((2, 3))

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (batch, labels) of waveforms (batch, num_samples)."""
        return self.head(self.dropout(self.features(waveform)))


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.GroupNorm(after // _GROUP, after),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
