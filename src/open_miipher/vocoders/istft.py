"""From a complex spectrum to a waveform: a vocoder without weights."""

import math

import torch
from torch import Tensor

from open_miipher.audio.stft import Stft, StftConfig
from open_miipher.base.errors import UserError
from open_miipher.encoders.base import frame_mask
from open_miipher.vocoders.base import Vocoder


class Istft(Vocoder):
    """Inverts the features of the `stft` encoder, and fills noise in where a cleaner asks for it.

    Its features are real and imaginary parts of every bin, and gains of the noise that is added to
    the compressed spectrum.

    Args:
        feature_width: of the encoder.
        frame_rate: of the encoder, frames a second.
        config: as the encoder's.

    Raises:
        UserError: the features are not those of an `stft` encoder with this config.
    """

    Config = StftConfig
    needs_noise = True
    restores_level = True

    def __init__(self, feature_width: int, frame_rate: float, config: StftConfig) -> None:
        super().__init__()
        own_rate = config.sample_rate / config.hop_length
        if feature_width != 3 * config.num_bins or not math.isclose(frame_rate, own_rate):
            raise UserError(
                f"the istft vocoder inverts features of {3 * config.num_bins} values at "
                f"{own_rate:g} frames/s, not of {feature_width} at {frame_rate:g}; give it the "
                "stft encoder's sample_rate, n_fft and hop_length"
            )
        self.config = config
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.stft = Stft(config)

    def forward(
        self, features: Tensor, noise: Tensor, frame_lengths: Tensor | None = None
    ) -> Tensor:
        """Vocode with a graph; see `Vocoder.generate`."""
        mask = None
        if frame_lengths is not None:
            mask = frame_mask(frame_lengths, features.shape[1])
            noise = noise * mask.repeat_interleave(self.hop_length, dim=1)
        features = features.float()
        real, imaginary, gain = features.split(self.config.num_bins, dim=2)
        filling = self.stft(noise / self.stft.window.norm())  # of unit power in every bin
        spectrum = torch.complex(real + gain * filling.real, imaginary + gain * filling.imag)
        return self.stft.inverse(spectrum, mask)

    @torch.no_grad()
    def generate(
        self, features: Tensor, noise: Tensor, frame_lengths: Tensor | None = None
    ) -> Tensor:
        """(batch, frames, 3 · bins) -> (batch, frames · hop); see `Vocoder.generate`."""
        return self(features, noise, frame_lengths)
