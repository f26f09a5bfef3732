"""Distance between spectra, for choosing checkpoints and for tables."""

import torch
from torch import Tensor

from open_miipher.base.precision import in_float32

FLOOR_DB = -100.0


def log_spectral_distance(
    reference: Tensor, estimate: Tensor, sample_rate: int, floor_db: float = FLOOR_DB
) -> Tensor:
    """Root mean square difference of log power spectra, averaged over frames.

    The windows are Hann windows of 2048 samples every 512 samples at 24 kHz, and of the same
    duration at other rates. The waveform is padded with zeros. Powers are relative to a full-scale
    sine in the centre of a bin. Powers below the floor are raised to it; otherwise digital silence
    compared with faint noise would dominate. The floor decides how much weight the pauses and the
    highest band have: ordinary speech goes down to about -100 dB in a bin, 16-bit rounding is at
    -125 dB. Distances with different floors cannot be compared.

    Args:
        reference: (batch, samples) at `sample_rate` Hz.
        estimate: the same shape.
        sample_rate: Hz.
        floor_db: dB of a full-scale sine.

    Returns:
        (batch,) float32, dB.
    """
    hop_length = round(512 * sample_rate / 24000)
    floor = 10.0 ** (floor_db / 10.0)
    difference = _log_power(reference, hop_length, floor) - _log_power(estimate, hop_length, floor)
    return difference.square().mean(dim=1).sqrt().mean(dim=1)


def _log_power(waveform: Tensor, hop_length: int, floor: float) -> Tensor:
    """(batch, samples) -> (batch, bins, frames), dB relative to a full-scale sine."""
    n_fft = 4 * hop_length
    window = torch.hann_window(n_fft, device=waveform.device)
    with in_float32(waveform.device):
        spectrum = torch.stft(
            waveform.float(),
            n_fft,
            hop_length,
            window=window,
            pad_mode="constant",
            return_complex=True,
        )
        power = (spectrum.abs() * 2 / window.sum()).square()
        return 10 * power.clamp(min=floor).log10()
