"""The stream of samples, whoever takes which part of it."""

from itertools import islice

import pytest

from open_miipher.base.errors import UserError
from open_miipher.data import Order
from open_miipher.data.order import micro_batches


def test_every_epoch_is_a_new_permutation():
    order = Order(10, seed=3)
    epochs = [[order.at(10 * epoch + k) for k in range(10)] for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert [e for e, _ in epoch] == [number] * 10
        assert sorted(index for _, index in epoch) == list(range(10))
    assert len({tuple(index for _, index in epoch) for epoch in epochs}) == 3
    assert [Order(10, seed=3).at(k) for k in range(30)] == [*epochs[0], *epochs[1], *epochs[2]]
    assert [Order(10, seed=4).at(k) for k in range(10)] != epochs[0]


def test_without_shuffling():
    order = Order(4, seed=0, shuffle=False)
    assert [order.at(k) for k in range(6)] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def step(start: int, batch_size: int, accumulation: int, num_ranks: int, number: int) -> list[int]:
    """All positions of step `number`, over the accumulations and ranks."""
    taken = []
    for rank in range(num_ranks):
        batches = micro_batches(start, batch_size, accumulation, rank, num_ranks)
        for batch in islice(batches, number * accumulation, (number + 1) * accumulation):
            taken += batch
    return sorted(taken)


@pytest.mark.parametrize(("accumulation", "num_ranks"), [(1, 1), (1, 4), (4, 1), (2, 3), (3, 2)])
def test_a_step_holds_the_same_samples_however_it_is_split(accumulation, num_ranks):
    for number in range(3):
        expected = list(range(7 + 12 * number, 7 + 12 * (number + 1)))
        assert step(7, 12, accumulation, num_ranks, number) == expected


def test_ranks_take_neighbouring_parts_of_an_accumulation():
    assert next(micro_batches(0, 8, 2, 1, 2)) == [2, 3]
    assert list(islice(micro_batches(0, 8, 2, 0, 2), 3)) == [[0, 1], [4, 5], [8, 9]]


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_ranks"), [(8, 1, 3), (4, 3, 1), (0, 1, 1)]
)
def test_a_batch_size_that_does_not_divide(batch_size, accumulation, num_ranks):
    with pytest.raises(UserError, match=f"trainer.batch_size={batch_size} must be a multiple of"):
        micro_batches(0, batch_size, accumulation, 0, num_ranks)
