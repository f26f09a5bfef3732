"""The complex spectrum as features: an encoder without weights, from which `istft` goes back."""

import torch
from torch import Tensor, nn

from open_miipher.audio.stft import Stft, StftConfig
from open_miipher.encoders.base import Encoder


class StftEncoder(Encoder):
    """Real parts of every bin, imaginary parts, and gains of noise: 0, as recorded audio has none.

    Magnitudes are compressed (`audio.stft`). The gains are for a cleaner to set.
    """

    Config = StftConfig
    carries_level = True

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.width = 3 * config.num_bins
        self.stft = Stft(config)
        self.freeze(repr(config))

    @property
    def layers(self) -> nn.ModuleList:
        """No blocks."""
        return nn.ModuleList()

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · hop_length) -> (batch, frames, 3 · bins); see `Encoder.encode`."""
        spectrum = self.stft(waveform)
        parts = torch.view_as_real(spectrum)
        return torch.cat([parts[..., 0], parts[..., 1], torch.zeros_like(parts[..., 0])], dim=2)
