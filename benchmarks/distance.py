"""How far one signal is from another, whose levels matter too."""

import numpy as np
import torch


def window_of(sample_rate: int) -> int:
    """Return the samples of a window of 85 ms."""
    return 4 * round(512 * sample_rate / 24000)


def distance_db(
    reference: np.ndarray, estimate: np.ndarray, size: int, floor_db: float = -100.0
) -> float:
    """Return the root mean square difference of log power spectra, averaged over frames, in dB.

    Unlike in the project's log-spectral distance, levels matter, and the floor is absolute.

    Args:
        reference: (samples,).
        estimate: the same shape.
        size: samples of a window; one begins every quarter of that.
        floor_db: quieter bins count as that loud; dB of a full-scale sine in the centre of one.
    """
    window = torch.hann_window(size)
    pair = torch.from_numpy(np.stack([reference, estimate]).astype(np.float32))
    spectra = torch.stft(
        pair, size, size // 4, window=window, pad_mode="constant", return_complex=True
    )
    power = (spectra.abs() * 2 / window.sum()).square().clamp(min=10 ** (floor_db / 10))
    first, second = 10 * power.log10()
    return float((first - second).square().mean(0).sqrt().mean())
