"""Randomness that can be read at any place, on any device: a function of four whole numbers.

A number of a stream depends on the run's seed, the item (a sample's position, say), the draw (what
it is used for) and its place in the stream, and on nothing else: not on the batch, the rank, the
device, or what was drawn before. So neighbouring chunks of a long file share their noise, and a
resumed run draws what the unbroken one would have.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), read as a function of the counter. Whole numbers wrap alike on every
device. Normal numbers are computed in float64 and rounded once to float32, so that devices whose
logarithms differ in the last bit agree in all but about one sample of 10⁸.
"""

import math

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15 - 2**64  # the odd number nearest to 2⁶⁴ over the golden ratio
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_LOW = 0xFFFFFFFF


def stream_keys(seed: int, items: Tensor, draw: int) -> Tensor:
    """Return what names the stream of each item, for `white_noise` and `uniform`.

    Args:
        seed: of the run, 0 … 2⁶³ - 1.
        items: (batch,) int64.
        draw: which of an item's streams.

    Returns:
        (batch,) int64, on the device of `items`.
    """
    keys = _at(torch.zeros_like(items), torch.full_like(items, seed))
    return _at(_at(keys, items), torch.full_like(items, draw))


def noise_key(seed: int) -> Tensor:
    """Return what names the one stream of a seed, where there are no items: (1,) int64."""
    return stream_keys(seed, torch.zeros(1, dtype=torch.int64), 0)


def white_noise(keys: Tensor, starts: Tensor, num_samples: int) -> Tensor:
    """Read standard normal noise from streams.

    Args:
        keys: (batch,) from `stream_keys`; the noise is made on their device.
        starts: (batch,) int64 on the same device, the first place to read in each stream.
        num_samples: how many.

    Returns:
        (batch, num_samples) float32, mean 0 and variance 1.
    """
    places = starts[:, None] + torch.arange(num_samples, device=keys.device)
    bits = _at(keys[:, None], places)
    radius = ((((bits >> 32) & _LOW).double() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & _LOW).double().mul_(2.0 * math.pi * 2.0**-32).cos_()
    return radius.mul_(angle).float()  # Box and Muller's transform


def uniform(keys: Tensor) -> Tensor:
    """Read the first number of each stream as one in [0, 1): (batch,) -> (batch,) float32."""
    bits = _at(keys, torch.zeros_like(keys))
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24  # 24 bits, all that float32 holds


def _at(keys: Tensor, places: Tensor) -> Tensor:
    """Return the numbers of 64 random bits at these places of these streams (int64)."""
    bits = keys + (places + 1) * _STEP
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift to the right with zeros coming in; torch's shift repeats the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
