"""Counter-based random numbers: each one is a function of four integers, on any device.

A random number depends on the run's seed, the item (such as a sample's position), the draw (what
the number is used for) and its place in the stream. It does not depend on the batch, the rank, the
device, or earlier draws. So neighbouring chunks of a long file share their noise, and a resumed run
draws the same numbers as an uninterrupted one.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), used as a function of the counter. Integers wrap in the same way on every
device. Normal numbers are computed in float64 and rounded once to float32, so that devices whose
logarithms differ in the last bit agree in all but about one sample of 10⁸.
"""

import math

import torch
from torch import Tensor, nn

_STEP = 0x9E3779B97F4A7C15 - 2**64  # the odd number nearest to 2⁶⁴ over the golden ratio
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_LOW = 0xFFFFFFFF


def stream_keys(seed: int, items: Tensor, draw: int) -> Tensor:
    """Return the key of each item's stream, for `white_noise`, `gumbel_noise` and `uniform`.

    Args:
        seed: of the run, 0 … 2⁶³ - 1.
        items: (batch,) int64.
        draw: number of the stream among those of an item.

    Returns:
        (batch,) int64, on the device of `items`.
    """
    keys = _mixed(torch.full_like(items, _wrapped((seed + 1) * _STEP)))
    return _mixed(_mixed(keys + items * _STEP + _STEP) + _wrapped((draw + 1) * _STEP))


def noise_key(seed: int) -> Tensor:
    """Return the key of a seed's stream if there are no items: (1,) int64."""
    return stream_keys(seed, torch.zeros(1, dtype=torch.int64), 0)


def white_noise(keys: Tensor, starts: Tensor, num_samples: int) -> Tensor:
    """Read standard normal noise from streams.

    Args:
        keys: (batch,) from `stream_keys`; the noise is made on their device.
        starts: (batch,) int64 on the same device, the first place to read in each stream.
        num_samples: number of samples to read from each stream.

    Returns:
        (batch, num_samples) float32, mean 0 and variance 1.
    """
    bits = _mixed((keys + starts * _STEP)[:, None] + _steps(num_samples, keys.device))
    radius = ((((bits >> 32) & _LOW).double() + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & _LOW).double().mul_(2.0 * math.pi * 2.0**-32).cos_()
    return radius.mul_(angle).float()  # the Box-Muller transform


def gumbel_noise(keys: Tensor, count: int) -> Tensor:
    """Read standard Gumbel noise from streams: added to log-probabilities, the greatest is a draw.

    Args:
        keys: (batch,) from `stream_keys`; the noise is made on their device.
        count: of numbers to read from each stream.

    Returns:
        (batch, count) float32.
    """
    bits = _mixed(keys[:, None] + _steps(count, keys.device))
    drawn = (((bits >> 32) & _LOW).double() + 0.5) * 2.0**-32
    return drawn.log_().neg_().log_().neg_().float()


def uniform(keys: Tensor) -> Tensor:
    """Read the first number of each stream, uniform in [0, 1): (batch,) -> (batch,) float32."""
    bits = _mixed(keys + _STEP)
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24  # 24 bits, all that float32 holds


def _mixed(bits: Tensor) -> Tensor:
    """Return the 64 random bits of each state of the generator, as int64."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _steps(count: int, device: torch.device) -> Tensor:
    """Return 1 … count times the step, as sums, which wrap wherever they are computed.

    Of a product with `arange`, torch.compile makes an index, and C++ compilers take indices not to
    wrap: loops end early, or write beyond their tensor. The zero in front keeps it from making such
    a product of the sums.
    """
    steps = torch.full((count,), _STEP, device=device)
    return nn.functional.pad(steps, (1, 0)).cumsum(0)[1:]


def _wrapped(number: int) -> int:
    """Return a whole number modulo 2⁶⁴, as the int64 of the same bits."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(bits: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift fills with the sign bit."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
