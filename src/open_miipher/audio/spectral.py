"""Distance between spectra, for choosing checkpoints and for tables."""

import torch
from torch import Tensor

FLOOR_DB = -100.0


def log_spectral_distance(
    reference: Tensor, estimate: Tensor, sample_rate: int, floor_db: float = FLOOR_DB
) -> Tensor:
    """Root mean square difference of log power spectra, averaged over frames.

    Hann windows of 2048 samples every 512 at 24 kHz, and as many seconds at other rates; zeros lie
    outside the waveform. Powers are relative to a full-scale sine in the centre of a bin and raised
    to at least the floor, so that digital silence against faint noise does not decide. The floor
    decides how much pauses and the highest band count: speech at ordinary levels reaches down to
    about -100 dB a bin, the rounding of 16 bits lies at -125. Distances with different floors
    cannot be compared.

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
        return 10 * power.clamp(min=floor).log10()
