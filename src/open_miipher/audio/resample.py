"""Change the sample rate: soxr on the CPU, whole or as a stream; torchaudio on the device."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_QUALITY = "HQ"


def num_output_frames(num_frames: int, rate_in: int, rate_out: int) -> int:
    """Frames after a change of rate: num_frames · rate_out / rate_in, halves up, at least 1."""
    return max(1, (2 * num_frames * rate_out + rate_in) // (2 * rate_in))


def resample(waveform: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Change the sample rate of a whole waveform.

    Args:
        waveform: (…, frames) float32 at `rate_in` Hz.
        rate_in: Hz.
        rate_out: Hz.

    Returns:
        (…, num_output_frames(frames, rate_in, rate_out)) float32; the input itself if the rates
        are equal.
    """
    if rate_in == rate_out:
        return waveform
    channels = waveform.reshape(-1, waveform.shape[-1])
    stream = StreamResampler(rate_in, rate_out, len(channels))
    return stream.push(channels, last=True).reshape(*waveform.shape[:-1], -1)


class StreamResampler:
    """Changes the sample rate block by block; the joined blocks equal the whole resampled.

    Args:
        rate_in: Hz.
        rate_out: Hz.
        num_channels: rows of every block.
    """

    def __init__(self, rate_in: int, rate_out: int, num_channels: int) -> None:
        self._rate_in, self._rate_out, self._num_channels = rate_in, rate_out, num_channels
        self._num_in = self._num_out = 0
        self._stream = (
            None
            if rate_in == rate_out
            else soxr.ResampleStream(rate_in, rate_out, num_channels, "float32", _QUALITY)
        )

    def push(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """Take a block and give what is ready.

        Args:
            block: (channels, n) float32 at the rate in, n ≥ 0.
            last: whether the waveform ends with this block.

        Returns:
            (channels, m) float32 at the rate out; m may be 0 unless `last`. The lengths of all
            answers add up to `num_output_frames` of the frames pushed.
        """
        if self._stream is None:
            return block
        self._num_in += block.shape[1]
        samples = np.ascontiguousarray(block.T, dtype=np.float32)
        ready: np.ndarray = self._stream.resample_chunk(samples, last=last).T
        if last:
            # soxr may end one frame before or after the exact length
            total = num_output_frames(self._num_in, self._rate_in, self._rate_out)
            missing = total - self._num_out - ready.shape[1]
            ready = np.pad(ready, ((0, 0), (0, max(0, missing))))[:, : total - self._num_out]
        self._num_out += ready.shape[1]
        return np.ascontiguousarray(ready)


def resample_on_device(waveform: "Tensor", rate_in: int, rate_out: int) -> "Tensor":
    """Change the sample rate on the waveform's device, with gradients; zeros lie outside.

    Args:
        waveform: (…, samples) at `rate_in` Hz.
        rate_in: Hz.
        rate_out: Hz.

    Returns:
        (…, ceil(samples · rate_out / rate_in)) float32; sample k lies at k / `rate_out` seconds.
    """
    import torch  # here, so that arrays are resampled without it

    from open_miipher.base.precision import in_float32

    waveform = waveform.float()
    if rate_in == rate_out:
        return waveform
    exact = -(-waveform.shape[-1] * rate_out // rate_in)
    with in_float32(waveform.device):
        resampled = _sinc_resampler(rate_in, rate_out, waveform.device)(waveform)
    # torchaudio computes the length in float32, which is off for long waveforms
    return torch.nn.functional.pad(resampled, (0, exact - resampled.shape[-1]))


@lru_cache
def _sinc_resampler(rate_in: int, rate_out: int, device: "torch.device") -> "nn.Module":
    from torchaudio.transforms import Resample  # slow to import

    # flat to 0.95 of the band and -55 dB from 1.03 of it on; torchaudio's default loses 3 dB there
    return Resample(rate_in, rate_out, lowpass_filter_width=64, rolloff=0.975).to(device)
