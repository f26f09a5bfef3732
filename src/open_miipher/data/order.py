"""The endless stream of samples, and the part of it that each rank takes at each step."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from open_miipher.base.errors import UserError


class Order:
    """Maps a position in the endless stream to an epoch and an item.

    Args:
        num_items: items per epoch.
        seed: of the permutations.
        shuffle: permute the items in each epoch; if False, they stay in order.
    """

    def __init__(self, num_items: int, seed: int, shuffle: bool = True) -> None:
        self.num_items, self.seed, self.shuffle = num_items, seed, shuffle

    def at(self, position: int) -> tuple[int, int]:
        """Return (epoch, index) of the sample at `position`, both counted from 0."""
        epoch, place = divmod(position, self.num_items)
        if not self.shuffle:
            return epoch, place
        return epoch, int(_permutation(self.num_items, self.seed, epoch)[place])


@lru_cache(maxsize=2)
def _permutation(num_items: int, seed: int, epoch: int) -> np.ndarray:
    # The spawn key keeps these numbers independent of a sample's, seeded by seed, epoch and index.
    sequence = np.random.SeedSequence((seed, epoch), spawn_key=(0,))
    return np.random.default_rng(sequence).permutation(num_items)


def micro_batches(
    start_position: int, batch_size: int, grad_accumulation: int, rank: int, num_ranks: int
) -> Iterator[list[int]]:
    """Yield the positions of this rank's micro batches, without end.

    Each step takes the next `batch_size` positions of the stream, for any number of ranks and micro
    batches. These are cut into `grad_accumulation` parts; in micro batch a, each rank takes its
    share of part a.

    Args:
        start_position: the first position of the first step.
        batch_size: samples per step, over all ranks and micro batches.
        grad_accumulation: micro batches per step.
        rank: of this process.
        num_ranks: number of ranks.

    Raises:
        UserError: the batch size is not divisible by ranks times micro batches.
    """
    parts = num_ranks * grad_accumulation
    size = batch_size // parts
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f"trainer.batch_size={batch_size} must be a multiple of {num_ranks} ranks × "
            f"trainer.grad_accumulation={grad_accumulation}"
        )
    return _micro_batches(start_position, batch_size, size, grad_accumulation, rank, num_ranks)


def _micro_batches(
    step_start: int, batch_size: int, size: int, grad_accumulation: int, rank: int, num_ranks: int
) -> Iterator[list[int]]:
    while True:
        for accumulation in range(grad_accumulation):
            first = step_start + (accumulation * num_ranks + rank) * size
            yield list(range(first, first + size))
        step_start += batch_size
