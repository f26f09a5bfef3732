"""White noise that can be read from any place: the same seed and sample give the same value."""

import numpy as np
import torch
from torch import Tensor

BLOCK_SIZE = 8192  # samples drawn from one key; part of the definition of the stream


def white_noise(seed: int, start: int, num_samples: int) -> Tensor:
    """Cut a slice out of the endless stream of standard normal noise that belongs to `seed`.

    The stream is made of blocks, each from its own Philox generator keyed by (seed, block number),
    so overlapping slices agree bit for bit wherever they were cut: neighbouring chunks of a long
    file, or the same training sample on another rank.

    Args:
        seed: 0 … 2⁶⁴ - 1.
        start: first sample, 0 … 2⁶³ - 1.
        num_samples: how many, at least 0.

    Returns:
        (num_samples,) float32 on the CPU, mean 0 and variance 1.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 <= seed < 2**64 or not 0 <= start < 2**63 or num_samples < 0:
        raise ValueError(f"no noise for seed {seed}, start {start}, num_samples {num_samples}")
    first_block, offset = divmod(start, BLOCK_SIZE)
    num_blocks = -(-(offset + num_samples) // BLOCK_SIZE)
    noise = np.empty(num_blocks * BLOCK_SIZE, dtype=np.float32)
    for block, samples in enumerate(noise.reshape(num_blocks, BLOCK_SIZE), start=first_block):
        key = np.array([seed, block], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        generator.standard_normal(dtype=np.float32, out=samples)
    return torch.from_numpy(noise[offset : offset + num_samples].copy())
