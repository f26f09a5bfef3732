"""Mix channels to one, so that speech on any of them is neither cancelled nor made quieter."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from open_miipher.audio.level import moments, variances

_CANCELS_BELOW = 0.5
"""Channels that have nothing in common mix to the mean of their powers, over their number. Below
this share of it they cancel each other."""

_LEAST_RAISE = 1e-3  # as a share of the amplitude


@dataclass(frozen=True, eq=False)
class Mix:
    """How channels become one.

    Attributes:
        weights: (channels,) float32.
        how: the same in words.
    """

    weights: np.ndarray
    how: str

    def apply(self, block: np.ndarray) -> np.ndarray:
        """Mix (channels, n) float32 to (1, n)."""
        return self.weights[None] @ block


def mix_of(blocks: Iterable[np.ndarray]) -> Mix:
    """Choose how to mix a signal.

    The mean of the channels is taken, raised to the level of the loudest channel, but not so far
    that it clips: that keeps what only one channel has, such as the centre of surround sound. Where
    the mean cancels, as of channels in opposite phase, the loudest channel is taken alone. A
    constant offset is no level.

    Args:
        blocks: the whole signal, each block (channels, n) float32; at least one.
    """
    num_frames, sums, squares, peaks = 0, np.zeros(1), np.zeros(1), np.zeros(1)
    for block in blocks:
        rows = np.concatenate([block, block.mean(axis=0, keepdims=True)])
        num_frames += rows.shape[1]
        block_sums, block_squares = moments(rows)
        sums, squares = sums + block_sums, squares + block_squares
        peaks = np.maximum(peaks, np.abs(rows).max(axis=1, initial=0.0))
    powers = variances(sums, squares, num_frames)
    channels, mixed = powers[:-1], float(powers[-1])
    count = len(channels)
    # Of equals the first, not one by chance.
    loudest = int((channels >= 0.99 * channels.max()).argmax())
    if mixed < _CANCELS_BELOW * channels.mean() / count:
        alone = np.zeros(count, np.float32)
        alone[loudest] = 1
        return Mix(alone, f"channel {loudest + 1} of {count}, because their mean cancels")
    mean, how = np.full(count, 1 / count, np.float32), f"mean of {count} channels"
    if not mixed:
        return Mix(mean, how)
    raised = min(math.sqrt(channels[loudest] / mixed), max(1.0, *peaks[:-1]) / float(peaks[-1]))
    if raised < 1 + _LEAST_RAISE:
        return Mix(mean, how)
    return Mix(mean * np.float32(raised), f"{how}, raised by {20 * math.log10(raised):.1f} dB")
