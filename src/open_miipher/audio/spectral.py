"""Distance between spectra, for choosing checkpoints and for tables."""

import torch
from torch import Tensor

_POWER_FLOOR = 1e-8


def log_spectral_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Root mean square difference of log power spectra, averaged over frames.

    Hann windows of 2048 samples every 512 at 24 kHz, and as many seconds at other rates; zeros lie
    outside the waveform. Powers are relative to a full-scale sine in the centre of a bin and raised
    to at least 1e-8 (-80 dB), so that digital silence against faint noise does not decide.

    Args:
        reference: (batch, samples) at `sample_rate` Hz.
        estimate: the same shape.
        sample_rate: Hz.

    Returns:
        (batch,) float32, dB.
    """
    hop_length = round(512 * sample_rate / 24000)
    difference = _log_power(reference, hop_length) - _log_power(estimate, hop_length)
    return difference.square().mean(dim=1).sqrt().mean(dim=1)


def _log_power(waveform: Tensor, hop_length: int) -> Tensor:
    """(batch, samples) -> (batch, bins, frames), dB relative to a full-scale sine."""
    n_fft = 4 * hop_length
    window = torch.hann_window(n_fft, device=waveform.device)
    with torch.autocast(waveform.device.type, enabled=False):
        spectrum = torch.stft(
            waveform.float(),
            n_fft,
            hop_length,
            window=window,
            pad_mode="constant",
            return_complex=True,
        )
        power = (spectrum.abs() * 2 / window.sum()).square()
        return 10 * power.clamp(min=_POWER_FLOOR).log10()
