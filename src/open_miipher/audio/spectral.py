"""Distance between spectra, for choosing checkpoints and for tables."""

import math

import torch
from torch import Tensor

from open_miipher.base.precision import in_float32

DEFINITION = 2
"""Of the distance; values of another one cannot be compared. 1 had windows of 85 ms, levels as they
are, and a floor 100 dB under a full-scale sine."""

WINDOW_SECONDS = 0.046
FLOOR_DB = -80.0
"""Under the highest power of the reference: what is quieter counts as that loud."""


def window_length(sample_rate: int) -> int:
    """Return the samples of about `WINDOW_SECONDS`, a power of two."""
    return int(2 ** round(math.log2(WINDOW_SECONDS * sample_rate)))


def log_spectral_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Root mean square difference of log power spectra, averaged over frames.

    Both waveforms are brought to unit RMS, so that neither level matters. The windows are Hann
    windows of about 46 ms every quarter of one; a waveform that is shorter than one is padded with
    zeros. Powers below the floor, 80 dB under the highest of the reference (under that of the
    estimate, if the reference is silent), are raised to it; otherwise digital silence compared with
    faint noise would dominate. What is silent lies at the floor everywhere.

    Args:
        reference: (batch, samples) at `sample_rate` Hz.
        estimate: the same shape.
        sample_rate: Hz.

    Returns:
        (batch,) dB; float64 where the waveforms are, else float32.
    """
    size = window_length(sample_rate)
    wanted, given = (power_spectra(_at_unit_rms(x), size) for x in (reference, estimate))
    peak = wanted.amax((1, 2), keepdim=True)
    peak = torch.where(peak > 0, peak, given.amax((1, 2), keepdim=True))
    floor = (peak * 10 ** (FLOOR_DB / 10)).clamp_min(torch.finfo(peak.dtype).tiny)
    difference = 10 * (torch.maximum(wanted, floor) / torch.maximum(given, floor)).log10()
    return difference.square().mean(dim=1).sqrt().mean(dim=1)


def _at_unit_rms(waveform: Tensor) -> Tensor:
    """(batch, samples) -> the same in float32 or float64, silence as it is."""
    waveform = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
    rms = waveform.square().mean(dim=1, keepdim=True).sqrt()
    return waveform / torch.where(rms > 0, rms, 1)


def power_spectra(waveform: Tensor, size: int) -> Tensor:
    """Return |STFT|² with a Hann window every quarter of one, without padding at the ends.

    Args:
        waveform: (batch, samples); one that is shorter than a window is padded with zeros.
        size: samples of the window, and of the transform.

    Returns:
        (batch, bins, frames), as float32 or float64 as the waveform is.
    """
    window = torch.hann_window(size, dtype=waveform.dtype, device=waveform.device)
    padded = torch.nn.functional.pad(waveform, (0, max(0, size - waveform.shape[1])))
    with in_float32(waveform.device):
        spectrum = torch.stft(
            padded, size, size // 4, window=window, center=False, return_complex=True
        )
    return spectrum.abs().square()
