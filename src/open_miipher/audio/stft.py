"""A short-time Fourier transform that is inverted exactly, its magnitudes compressed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError

_SMALLEST_POWER = 1e-24  # keeps the compression of 0 finite; far below float32's rounding of audio


@dataclass
class StftConfig:
    """Resolution and compression; the defaults are 32 ms windows every 16 ms.

    Attributes:
        sample_rate: in Hz.
        n_fft: samples of the window and of the transform, a multiple of the hop.
        hop_length: samples between frames.
        power: to which magnitudes are raised; phases stay.
    """

    sample_rate: int = 24000
    n_fft: int = 768
    hop_length: int = 384
    power: float = 0.3

    @property
    def num_bins(self) -> int:
        """Bins from 0 Hz to half the sample rate."""
        return self.n_fft // 2 + 1


class Stft(nn.Module):
    """Frame k is centred on sample (k + 1/2) · hop_length and sees zeros outside the waveform.

    A square root of a Hann window is laid on both ways. Everything is computed in float32.

    Raises:
        UserError: on construction, if windows and hops do not fit.
    """

    window: Tensor

    def __init__(self, config: StftConfig) -> None:
        super().__init__()
        n_fft, hop = config.n_fft, config.hop_length
        if hop < 1 or n_fft < 2 * hop or n_fft % hop or (n_fft - hop) % 2 or n_fft % 2:
            raise UserError(
                f"an stft of n_fft={n_fft} and hop_length={hop}: n_fft must be even and a multiple "
                "of hop_length, at least twice as long, with an even difference"
            )
        if not 0 < config.power <= 1:
            raise UserError(f"an stft of power={config.power}: choose above 0 and at most 1")
        self.config = config
        self.margin = (n_fft - hop) // 2  # samples that the outer frames reach beyond the waveform
        self.register_buffer("window", torch.hann_window(n_fft).sqrt(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Analyse whole hops.

        Args:
            waveform: (batch, frames · hop_length) float32.

        Returns:
            (batch, frames, bins) complex64, magnitudes compressed.
        """
        padded = nn.functional.pad(waveform.float(), (self.margin, self.margin))
        frames = padded.unfold(1, self.config.n_fft, self.config.hop_length) * self.window
        return _scaled(fourier.rfft(frames, self.config.n_fft), self.config.power)

    def inverse(self, spectrum: Tensor, mask: Tensor | None = None) -> Tensor:
        """Undo `forward`.

        Args:
            spectrum: (batch, frames, bins) complex64.
            mask: (batch, frames) bool, the frames that there are; None: all.

        Returns:
            (batch, frames · hop_length) float32.
        """
        spectrum = _scaled(spectrum, 1 / self.config.power)
        frames = fourier.irfft(spectrum, self.config.n_fft) * self.window
        windows = self.window.square().expand(1, frames.shape[1], -1)
        if mask is not None:
            frames, windows = frames * mask[..., None], windows * mask[..., None]
        hop, count = self.config.hop_length, frames.shape[1]
        added, coverage = (
            fourier.overlap_add(x, hop).narrow(1, self.margin, count * hop)
            for x in (frames, windows)
        )
        return added / coverage.clamp_min(_SMALLEST_POWER)


def _scaled(spectrum: Tensor, power: float) -> Tensor:
    """Raise the magnitudes of a complex tensor to a power."""
    parts = torch.view_as_real(spectrum)
    energy = fourier.power(parts)[..., None]
    if power < 1:
        energy = energy.clamp_min(_SMALLEST_POWER)
    return torch.view_as_complex(parts * energy.pow((power - 1) / 2))
