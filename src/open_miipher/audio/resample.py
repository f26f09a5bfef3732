"""Change the sample rate: soxr on the CPU, whole or as a stream, and its filter on the device."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_QUALITY = "HQ"
_REACH = 512  # samples, at the lower rate, from which on soxr's filter is nothing
_INAUDIBLE = 1e-7


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


@lru_cache
def resampling_delay(rate_in: int, rate_out: int) -> float:
    """Return by how many seconds a `StreamResampler`'s answers lag behind its blocks, at most.

    Measured, because soxr works in blocks of its own: on short blocks of zeros.
    """
    resampler, step = StreamResampler(rate_in, rate_out, 1), max(1, rate_in // 100)
    zeros, num_out, delays = np.zeros((1, step), np.float32), 0, []
    for k in range(1, 401):  # 4 s: many of soxr's blocks, at the lowest rates too
        num_out += resampler.push(zeros).shape[1]
        delays.append(k * step / rate_in - num_out / rate_out)
    return max(0.0, *delays)


def resample_on_device(waveform: "Tensor", rate_in: int, rate_out: int) -> "Tensor":
    """Change the sample rate on the waveform's device, with gradients.

    So that training hears what restoring does, it equals `resample` to 1e-5, but for the first 10
    ms, where soxr starts in a way of its own.

    Args:
        waveform: (…, samples) at `rate_in` Hz; zeros lie outside.
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
    kernel, before = _kernel_on(rate_in, rate_out, waveform.device)
    step = rate_in // math.gcd(rate_in, rate_out)
    after = -(-waveform.shape[-1] // step) * step - waveform.shape[-1] + kernel.shape[2]
    rows = waveform.reshape(-1, 1, waveform.shape[-1])
    rows = torch.nn.functional.pad(rows, (before, after))
    with in_float32(waveform.device):
        phases = torch.nn.functional.conv1d(rows, kernel, stride=step)
    resampled = phases.transpose(1, 2).flatten(1)[:, :exact]
    return resampled.reshape(*waveform.shape[:-1], exact)


@lru_cache
def _kernel_on(rate_in: int, rate_out: int, device: "torch.device") -> "tuple[Tensor, int]":
    import torch

    kernel, before = _kernel(rate_in, rate_out)
    return torch.from_numpy(kernel)[:, None].to(device), before


def _kernel(rate_in: int, rate_out: int) -> tuple[np.ndarray, int]:
    """Read soxr's filter off its answers to single samples.

    With rates of p : q, out and in, soxr does the same again every q samples in and p samples out.
    So the answers to one sample at each of q places are all there is to know.

    Returns:
        (p, taps) float32: sample m · p + j of the output is the product of row j with the input
        from sample m · q - before on; and before.
    """
    common = math.gcd(rate_in, rate_out)
    step_in, step_out = rate_in // common, rate_out // common
    half = math.ceil(_REACH * max(1.0, rate_in / rate_out) / step_in)
    samples = np.zeros((step_in, 2 * half * step_in), np.float32)
    places = np.arange(step_in)
    samples[places, half * step_in + places] = 1.0
    answers = resample(samples, rate_in, rate_out).reshape(step_in, 2 * half, step_out)
    # A sample that lies later reaches the earlier rows: the kernel runs against the answers.
    kernel = answers[:, ::-1].transpose(2, 1, 0).reshape(step_out, -1)
    heard = np.flatnonzero(np.abs(kernel).max(axis=0) > _INAUDIBLE * np.abs(kernel).max())
    before = (half - 1) * step_in - int(heard[0])
    return np.ascontiguousarray(kernel[:, heard[0] : heard[-1] + 1]), before
