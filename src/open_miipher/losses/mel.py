"""Distance between log-mel spectra at several resolutions in time and frequency."""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError
from open_miipher.base.precision import in_float32


@dataclass
class MultiScaleMelConfig:
    """Scales, one entry each; the defaults are DAC's, which Sidon uses.

    Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (NeurIPS 2023, arXiv
    2306.06546), section 3.5.

    Attributes:
        n_mels: mel bands, from 0 Hz to half the sample rate.
        win_lengths: samples of the window and of the transform; the hop is a quarter of it.
        floor: smaller mel magnitudes are raised to it.
    """

    n_mels: list[int] = field(default_factory=lambda: [5, 10, 20, 40, 80, 160, 320])
    win_lengths: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512, 1024, 2048])
    floor: float = 1e-5


class MultiScaleMelLoss(nn.Module):
    """Sum over the scales of the mean |log10 mel(x) - log10 mel(y)|.

    As in DAC: magnitudes, Slaney's mel scale, triangles of equal area.

    Args:
        sample_rate: of the waveforms, in Hz.
        config: scales of the loss.
    """

    def __init__(self, sample_rate: int, config: MultiScaleMelConfig) -> None:
        super().__init__()
        if not config.n_mels or len(config.n_mels) != len(config.win_lengths):
            raise UserError(
                "n_mels and win_lengths of the mel loss need one entry a scale each, not "
                f"{len(config.n_mels)} and {len(config.win_lengths)}"
            )
        if min(*config.n_mels, min(config.win_lengths) // 4) < 1 or config.floor <= 0:
            raise UserError(
                f"a mel loss of n_mels={config.n_mels}, win_lengths={config.win_lengths} and "
                f"floor={config.floor}: give at least 1 band, windows of 4 samples and a floor "
                "above 0"
            )
        self.config = config
        for n_mels, size in zip(config.n_mels, config.win_lengths, strict=True):
            basis = _basis(size, n_mels, sample_rate)
            self.register_buffer(f"basis_{size}", basis, persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, target: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        """Compare waveforms; they are padded with zeros.

        Args:
            target: (batch, samples).
            estimate: (…, batch, samples), for example all iterations of a vocoder, stacked.

        Returns:
            `mel`, a float32 scalar.
        """
        with in_float32(target.device):
            distances = [
                (self._log_mel(estimate, size) - self._log_mel(target, size)).abs().mean()
                for size in self.config.win_lengths
            ]
        return {"mel": torch.stack(distances).sum()}

    def _log_mel(self, waveform: Tensor, size: int) -> Tensor:
        """(…, samples) -> (…, bands, frames) float32."""
        spectrum = torch.stft(
            waveform.float().flatten(0, -2),
            size,
            size // 4,
            window=self.get_buffer(f"window_{size}"),
            pad_mode="constant",
            return_complex=True,
        )
        # Not abs(): near 0 its gradient depends on the phase of a negligible value.
        power = fourier.power(torch.view_as_real(spectrum))
        mel = self.get_buffer(f"basis_{size}").T @ (power + self.config.floor**2 * 1e-4).sqrt()
        return mel.clamp_min(self.config.floor).log10().unflatten(0, waveform.shape[:-1])


def _basis(size: int, n_mels: int, sample_rate: int) -> Tensor:
    """(bins, bands); at the coarsest scales some bands are narrower than a bin and stay empty."""
    from torchaudio.functional import melscale_fbanks  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return melscale_fbanks(
            size // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, "slaney", "slaney"
        )
