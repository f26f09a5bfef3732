"""What every vocoder is to the rest of the package, and what adversarial training asks besides."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.audio.mel import MelConfig
from open_miipher.base.ambient import Ambient
from open_miipher.base.noise import white_noise
from open_miipher.encoders.base import frame_mask


class Vocoder(nn.Module, ABC):
    """Turns features into a waveform of exactly `frames * hop_length` samples.

    Attributes:
        sample_rate: of the waveform, in Hz.
        hop_length: samples per feature frame.
        needs_noise: whether the noise given is used.
        restores_level: True if the output has the level of the speech that the features describe;
            False if it comes at a fixed peak and levels must be put back.
        mel: the front end that log-mel features must come from; None for other features.
    """

    Config: ClassVar[type]
    sample_rate: int
    hop_length: int
    needs_noise: bool
    restores_level: bool
    mel: MelConfig | None = None

    @abstractmethod
    def generate(
        self, features: Tensor, noise: Tensor, frame_lengths: Tensor | None = None
    ) -> Tensor:
        """Vocode for listening, without a graph.

        Args:
            features: (batch, frames, feature_width).
            noise: (batch, frames * hop_length), standard normal; anything if it needs none.
            frame_lengths: (batch,) valid frames of each clip, on which alone its output depends;
                None: all are.

        Returns:
            (batch, frames * hop_length) float32; anything beyond a clip's end.
        """

    def noise(self, keys: Tensor, starts: Tensor, num_samples: int) -> Tensor:
        """Return what `generate` starts from; see `white_noise`, or zeros if it needs none."""
        if self.needs_noise:
            return white_noise(keys, starts, num_samples)
        return torch.zeros((), device=keys.device).expand(len(keys), num_samples)

    def merge(self, on_gpu: bool) -> None:
        """Take the form that is fastest, and says the same; most have one form alone.

        Neither training nor saving works afterwards. Weights must be no parametrisations.

        Args:
            on_gpu: whether it is for a GPU.
        """


_MISSING: Ambient[Tensor | None] = Ambient("missing", None)


def ending(missing: Tensor | None) -> AbstractContextManager[None]:
    """Within, convolutions that `see_ends` see zeros beyond each clip's end, as if it were alone.

    Args:
        missing: (batch,) frames by which each clip is shorter than the batch; None: none is.
    """
    return _MISSING.given(missing)


def see_ends(network: nn.Module, rate: int) -> None:
    """Have a network's convolutions end with each clip where `ending` says so.

    Args:
        network: has convolutions, whose inputs all have the same rate.
        rate: samples of these inputs per frame.
    """
    for module in network.modules():
        is_convolution = isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
        if is_convolution and module.kernel_size != (1,):
            module.register_forward_pre_hook(partial(_silence_beyond, rate))


def _silence_beyond(rate: int, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    missing = _MISSING.value
    if missing is None:
        return None
    [x] = inputs
    valid = frame_mask(x.shape[-1] - missing * rate, x.shape[-1])
    return (x.masked_fill(~valid[:, None], 0.0),)


@dataclass
class CropPieces:
    """Pieces of crops; in training, a vocoder sees the features of whole crops and speaks pieces.

    Attributes:
        crops: (pieces,) the crop that each is cut from.
        starts: (pieces,) its first frame there.
        num_frames: of every piece.
        peaks: (pieces,) the height of what it shall sound like.
        mask: (pieces, samples) 1 where there is something to learn, 0 where a crop has ended.
    """

    crops: Tensor
    starts: Tensor
    num_frames: int
    peaks: Tensor
    mask: Tensor

    def of(self, x: Tensor, per_frame: int = 1) -> Tensor:
        """Cut them: (crops, frames · per_frame, …) -> (pieces, num_frames · per_frame, …)."""
        return cut(x, self.crops, self.starts * per_frame, self.num_frames * per_frame)


def cut(x: Tensor, rows: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return x[rows, starts … starts + length]: (rows, length, …)."""
    places = starts[:, None] + torch.arange(length, device=starts.device)
    return x[rows[:, None], places]


class AdversarialGenerator(Vocoder):
    """A vocoder that trains against discriminators, which judge the output of every iteration.

    Attributes:
        num_missing: samples at the end of a crop's output that are zeros, whatever the features.
        margin_frames: frames beside a piece that reach into it; pieces keep so far from the ends of
            a crop where it is long enough, so that they sound as they do within a file.
    """

    num_missing: int = 0
    margin_frames: int = 0

    @abstractmethod
    def forward(
        self,
        features: Tensor,
        noise: Tensor,
        pieces: CropPieces | None = None,
        frame_lengths: Tensor | None = None,
    ) -> list[Tensor]:
        """Vocode for training.

        Args:
            features: (crops, frames, feature_width).
            noise: (pieces, samples of a piece), standard normal; anything if it needs none.
            pieces: of the crops, to speak; None: each as a whole.
            frame_lengths: see `generate`; without pieces alone.

        Returns:
            The output of every iteration, (pieces, samples of a piece) each, the final one last.
        """

    @abstractmethod
    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """Scale clean speech to what the outputs are compared with.

        Args:
            clean: (batch, samples), the piece that the vocoder speaks.
            whole: (batch, samples), all that the encoder has seen, the piece among it.

        Returns:
            (batch, samples) of the piece.
        """

    @torch.no_grad()
    def generate(
        self, features: Tensor, noise: Tensor, frame_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the last of what `forward` returns, bit for bit; see `Vocoder.generate`."""
        return self(features, noise, frame_lengths=frame_lengths)[-1]
