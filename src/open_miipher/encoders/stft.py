"""The complex spectrum as features: an encoder without weights, from which `istft` goes back."""

import torch
from torch import Tensor, nn

from open_miipher.audio.stft import Stft, StftConfig
from open_miipher.encoders.base import Encoder


class StftEncoder(Encoder):
    """Real parts of every bin, then imaginary parts, magnitudes compressed (`audio.stft`)."""

    Config = StftConfig
    carries_level = True

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.width = 2 * config.num_bins
        self.stft = Stft(config)
        self.freeze(repr(config))

    @property
    def layers(self) -> nn.ModuleList:
        """No blocks."""
        return nn.ModuleList()

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · hop_length) -> (batch, frames, 2 · bins); see `Encoder.encode`."""
        spectrum = self.stft(waveform)
        return torch.cat([spectrum.real, spectrum.imag], dim=2)
