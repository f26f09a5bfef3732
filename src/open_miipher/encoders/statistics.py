"""Statistics for front ends that normalise their input: of one clip, or of a whole stream.

Each signal has one row: its means, then its variances, (rows, 2 * width).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from open_miipher.encoders.base import frame_mask


def own_statistics(values: Tensor, lengths: Tensor, correction: int = 0) -> Tensor:
    """Return each clip's own statistics.

    Args:
        values: (batch, frames, width); frames beyond `lengths` must be finite and are ignored.
        lengths: (batch,) valid frames.
        correction: the variance's sum is divided by frames - correction.

    Returns:
        (batch, 2 * width), with the type of `values`.
    """
    mask = frame_mask(lengths, values.shape[1])[:, :, None]
    count = lengths[:, None]
    mean = (values * mask).sum(1) / count
    deviation = (values - mean[:, None]) * mask
    return torch.cat([mean, deviation.square().sum(1) / (count - correction)], dim=1)


class StreamMoments:
    """Mean and covariance over the windows of a stream, in constant memory.

    The result does not depend on how the signal is cut into blocks: a window that crosses a border
    waits for its last sample. The sums are float64.

    Args:
        values: (rows, samples) -> (rows, windows, width): the values to average, of all windows
            inside the samples. The first window begins at the first sample.
        window: samples of a window.
        hop: samples from the start of one window to the start of the next, at most `window`.
    """

    def __init__(self, values: Callable[[Tensor], Tensor], window: int, hop: int) -> None:
        self._values, self._window, self._hop = values, window, hop
        self._rest: Tensor | None = None
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def push(self, block: Tensor) -> None:
        """Add the next samples (rows, n), n ≥ 0."""
        samples = block if self._rest is None else torch.cat([self._rest, block], dim=1)
        num_windows = max(0, (samples.shape[1] - self._window) // self._hop + 1)
        self._rest = samples[:, num_windows * self._hop :]
        if num_windows:
            end = (num_windows - 1) * self._hop + self._window
            values = self._values(samples[:, :end]).double()
            self._count += num_windows
            self._sum = self._sum + values.sum(1)
            self._products = self._products + values.mT @ values

    def mean(self) -> Tensor:
        """(rows, width) float64."""
        return torch.as_tensor(self._sum) / self._count

    def covariance(self, correction: int = 0) -> Tensor:
        """(rows, width, width) float64; the sums are divided by windows - correction."""
        mean = self.mean()
        products = self._products - self._count * mean[:, :, None] * mean[:, None]
        return products / (self._count - correction)


def with_tail(blocks: Iterable[Tensor], hop_length: int, beyond_hop: int) -> Iterator[Tensor]:
    """Yield a signal's blocks (rows, n), and then the zeros that its last frame needs.

    Args:
        blocks: at least one block.
        hop_length: samples per frame; the last frame is filled with zeros.
        beyond_hop: samples after the last frame that the front end reads; they are zeros.
    """
    num_samples = 0
    for block in blocks:
        num_samples += block.shape[1]
        yield block
    yield block.new_zeros(len(block), -num_samples % hop_length + beyond_hop)
