"""Batches for the trainer, made in worker processes or in this one, with the same samples."""

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from open_miipher.base.errors import UserError
from open_miipher.data.batch import Batch
from open_miipher.data.order import micro_batches
from open_miipher.data.source import Dataset, FailureLimit
from open_miipher.distributed import die_with_parent, ignore_stop_signals, stop_signals_wait

_PREFETCHED_BATCHES = 2
# The share of failures is taken of at least this many samples: one early failure must not stop the
# run.
_MIN_SAMPLES = 200


def train_batches(
    dataset: Dataset,
    start_position: int,
    batch_size: int,
    grad_accumulation: int = 1,
    rank: int = 0,
    num_ranks: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    start_method: Literal["fork", "spawn"] = "fork",
) -> Iterator[Batch]:
    """Yield this rank's micro batches, without end.

    The samples of a step do not depend on the number of ranks, micro batches or workers. torch's
    global random state is neither used nor changed.

    Args:
        dataset: where the samples come from.
        start_position: samples consumed before.
        batch_size: samples per step, over all ranks and micro batches.
        grad_accumulation: micro batches per step.
        rank: of this process.
        num_ranks: number of ranks.
        num_workers: processes that make batches ahead; 0 makes them in this process.
        pin_memory: copy batches to page-locked memory, from which a GPU copies without waiting.
        start_method: how the workers start. Those that are spawned take some seconds, and have all
            they need in memory of their own, but for what is mapped from a file.

    Raises:
        UserError: the batch size is not divisible, a file cannot be read any more, or too many
            samples failed.
    """
    positions = micro_batches(start_position, batch_size, grad_accumulation, rank, num_ranks)
    batches = _load(dataset, positions, num_workers, pin_memory, start_method)
    return _checked(batches, dataset.failure_limits)


def validation_batches(
    dataset: Dataset, rank: int = 0, num_ranks: int = 1, num_workers: int = 0
) -> Iterator[Batch]:
    """Yield this rank's share of the fixed clips once, each in a batch of its own.

    Args:
        dataset: a source's `validation`; its epoch 0 is used, in order.
        rank: of this process.
        num_ranks: number of ranks; the clips are dealt out in turn, so shares may differ by one.
        num_workers: processes that make clips ahead; 0 makes them in this process.

    Raises:
        UserError: a file cannot be read any more, or too many clips failed.
    """
    positions = ([position] for position in range(rank, dataset.num_items, num_ranks))
    return _checked(_load(dataset, positions, num_workers), dataset.failure_limits)


class _Fetcher:
    """Makes samples in a worker, and returns a `UserError` as a value instead of raising it.

    torch's loader would put the text of a traceback into an exception from a worker.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, position: int) -> tuple[int, Any] | UserError:
        try:
            return position, self.dataset[position]
        except UserError as error:
            return error

    def collate(self, fetched: Sequence[tuple[int, Any] | UserError]) -> Batch | UserError:
        """Join fetched samples, or return the first error among them."""
        problem = next((item for item in fetched if isinstance(item, UserError)), None)
        return problem or self.dataset.collate([i for i in fetched if isinstance(i, tuple)])


def _load(
    dataset: Dataset,
    positions: Iterable[list[int]],
    num_workers: int,
    pin_memory: bool = False,
    start_method: Literal["fork", "spawn"] = "fork",
) -> Iterator[Batch | UserError]:
    fetcher = _Fetcher(dataset)
    loader = DataLoader(
        fetcher,
        batch_sampler=positions,
        collate_fn=fetcher.collate,
        num_workers=num_workers,
        worker_init_fn=_start_worker,
        prefetch_factor=_PREFETCHED_BATCHES if num_workers else None,
        # Not "forkserver": the trainer is to be the worker's parent, with which a worker ends.
        multiprocessing_context=start_method if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # otherwise the loader would draw from the global generator
    )
    if num_workers and start_method == "spawn":
        resource_tracker.ensure_running()  # whose own start would let the signals through
    with stop_signals_wait():  # a spawned worker takes seconds until it ignores them
        return iter(loader)


def _start_worker(worker: int) -> None:
    """Make a worker end when its parent does, and on SIGTERM only from its parent.

    Batch systems send SIGTERM to whole process groups. The worker ignores it, so that the parent
    can still save and stop in order. A SIGTERM from the parent has to work: otherwise the parent
    would wait forever when it exits while an iterator is open. torch itself has limited the worker
    to one compute thread.
    """
    starter = multiprocessing.parent_process()
    die_with_parent(None if starter is None else starter.pid)
    ignore_stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # kept for the thread below
    Thread(target=_exit_on_parents_signal, daemon=True).start()


def _exit_on_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)  # as torch's own workers do; another status would look like a crash


def _is_from_workers_socket(error: Exception) -> bool:
    """Whether an error is of the socket through which a worker hands over the memory of a batch.

    What a worker itself has raised comes with the text of its traceback in place of a number.
    """
    if "in pin memory thread" in str(error):
        return True
    if isinstance(error, OSError):
        return error.errno is not None and error.filename is None
    return not error.args


def _checked(
    batches: Iterator[Batch | UserError], limits: Sequence[FailureLimit]
) -> Iterator[Batch]:
    num_samples = 0
    num_failures = dict.fromkeys(limits, 0)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            num_samples += len(batch.names)
            for limit in limits:
                latest = getattr(batch, limit.counts)
                num_failures[limit] += len(latest)
                if num_failures[limit] > limit.share * max(num_samples, _MIN_SAMPLES):
                    raise UserError(
                        f"{num_failures[limit]} {limit.what} in {num_samples} samples, more than "
                        f"{limit.key}={limit.share} of them; the last: {latest[-1]}"
                    )
            yield batch
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if not _is_from_workers_socket(error):
            raise
        # As torch says it where it is the first to notice.
        raise RuntimeError("DataLoader worker ended while its batch was received") from error
    finally:
        del batches  # ends the workers now, not when the traceback releases this frame
