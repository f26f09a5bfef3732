"""Batches for the trainer, made in worker processes or in this one; the samples are the same."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader

from open_miipher.base.errors import UserError
from open_miipher.data.batch import Batch
from open_miipher.data.order import micro_batches
from open_miipher.data.source import Dataset, FailureLimit
from open_miipher.distributed import die_with_parent, ignore_stop_signals

_PREFETCHED_BATCHES = 2
_FEWEST_JUDGED = 200  # samples; before so many, one failure would be too large a share


def train_batches(
    dataset: Dataset,
    start_position: int,
    batch_size: int,
    grad_accumulation: int = 1,
    rank: int = 0,
    num_ranks: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yield this rank's micro batches for ever.

    The samples of a step do not depend on ranks, accumulations or workers. torch's own random
    state is neither used nor moved.

    Args:
        dataset: where the samples come from.
        start_position: samples consumed before.
        batch_size: samples a step, of all ranks and accumulations together.
        grad_accumulation: micro batches a step.
        rank: this one.
        num_ranks: how many.
        num_workers: processes that make batches ahead; 0 makes them in this one.
        pin_memory: put batches into page-locked memory, from which a GPU copies without waiting.

    Raises:
        UserError: the batch size does not divide; a file has become unreadable; too much fails.
    """
    positions = micro_batches(start_position, batch_size, grad_accumulation, rank, num_ranks)
    batches = _load(dataset, positions, num_workers, pin_memory)
    return _judged(batches, dataset.failure_limit)


def validation_batches(
    dataset: Dataset, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
) -> Iterator[Batch]:
    """Yield this rank's share of the fixed clips once, each in a batch of its own.

    Args:
        dataset: a source's `validation`; always its epoch 0, in order.
        rank: this one.
        num_ranks: how many; the clips are dealt out in turn, so that ranks may differ by one.
        num_workers: processes that make clips ahead; 0 makes them in this one.

    Raises:
        UserError: a file has become unreadable; too much fails.
    """
    positions = ([position] for position in range(rank, dataset.num_items, num_ranks))
    return _judged(_load(dataset, positions, num_workers), dataset.failure_limit)


class _Fetcher:
    """Makes samples where they are asked for, and hands problems on as values.

    torch's loader would wrap an exception of a worker into a traceback.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: int) -> tuple[int, Any] | UserError:
        try:
            return position, self.dataset[position]
        except UserError as error:
            return error

    def collate(self, fetched: Sequence[tuple[int, Any] | UserError]) -> Batch | UserError:
        """Join fetched samples, or hand on the first problem."""
        problem = next((item for item in fetched if isinstance(item, UserError)), None)
        return problem or self.dataset.collate([i for i in fetched if isinstance(i, tuple)])


def _load(
    dataset: Dataset,
    positions: Iterable[list[int]],
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch | UserError]:
    fetcher = _Fetcher(dataset)
    loader = DataLoader(
        fetcher,
        batch_sampler=positions,
        collate_fn=fetcher.collate,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        prefetch_factor=_PREFETCHED_BATCHES if num_workers else None,
        # Forked, so that the trainer is the parent that a worker dies with.
        multiprocessing_context="fork" if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or it would draw a seed from the global one
    )
    return iter(loader)


def _start_worker(worker: int) -> None:
    """Tie a worker to its parent: it lives as long, and is ended by it alone.

    A SIGTERM from elsewhere, as batch systems send it to whole groups, is passed over, so that
    the parent can save and stop in order. The parent's own must work: without it the parent would
    wait for ever when it exits with an iterator open. torch has given the worker one thread.
    """
    die_with_parent()
    ignore_stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # kept for the thread below
    Thread(target=_exit_when_told, daemon=True).start()


def _exit_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)  # as torch's own workers do: anything else would look like a crash


def _judged(batches: Iterator[Batch | UserError], limit: FailureLimit) -> Iterator[Batch]:
    num_samples = num_failures = 0
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            num_samples += len(batch.names)
            num_failures += len(batch.failures)
            if num_failures > limit.share * max(num_samples, _FEWEST_JUDGED):
                raise UserError(
                    f"{num_failures} {limit.what} in {num_samples} samples, more than "
                    f"{limit.key}={limit.share} of them; the last: "
                    f"{batch.failures[-1]}"
                )
            yield batch
    finally:
        del batches  # ends the workers now, not when the traceback lets go of this frame
