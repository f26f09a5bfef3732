"""Gather chunks of like lengths into batches, and have the model restore these."""

import re
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch

from open_miipher.base.errors import UserError
from open_miipher.base.noise import noise_key
from open_miipher.restoration.chain import Model
from open_miipher.restoration.job import Chunk, Job, ModelChunk

LITTLE_PADDING, MOST_PADDING = 0.05, 0.15
"""Shares of a batch that are padding: a full batch with less than the first goes at once, and none
has more than the second."""

PATIENCE = 12
"""When channels for so many batches wait, the one that has waited longest goes with its likes."""

MOST_AT_ONCE = 8
"""Batches that are restored side by side, at most; each takes memory."""

_NO_MEMORY = re.compile("can't allocate memory|could not create a primitive")
"""What torch and oneDNN say on a CPU, under a limit (`ulimit -v`)."""

BatchRow = tuple[ModelChunk, int]  # and the channel of it


class Waiting:
    """Channels of chunks that wait for a batch, the shortest first.

    Args:
        batch_size: the most of them in a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._rows: list[tuple[int, int, BatchRow]] = []  # frames, order of arrival, row
        self._num_seen = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: BatchRow) -> list[BatchRow]:
        """Have a row wait; return the batch that shall go now, or nothing."""
        insort(self._rows, (row[0].restored.shape[1], self._num_seen, row))
        self._num_seen += 1
        if len(self._rows) >= self._batch_size:
            paddings = self._paddings(self._batch_size)
            best = int(paddings.argmin())
            if paddings[best] <= LITTLE_PADDING:
                return self._take(best, self._batch_size)
        if len(self._rows) < PATIENCE * self._batch_size:
            return []
        return self.first()

    def first(self) -> list[BatchRow]:
        """Return the batch of the row that has waited longest; nothing if none waits."""
        if not self._rows:
            return []
        return self._with(min(range(len(self._rows)), key=lambda place: self._rows[place][1]))

    def rest(self) -> Iterator[list[BatchRow]]:
        """Yield all that wait, in batches, the longest first."""
        while self._rows:
            yield self._with(len(self._rows) - 1)

    def _with(self, place: int) -> list[BatchRow]:
        """Take the largest batch around a row that is not padded too much."""
        size = min(self._batch_size, len(self._rows))
        while True:
            first = max(0, place - size + 1)
            paddings = self._paddings(size)[first : place + 1]
            best = int(paddings.argmin())
            if paddings[best] <= MOST_PADDING:  # a row alone has none
                return self._take(first + best, size)
            size -= 1

    def _paddings(self, size: int) -> np.ndarray:
        """Return the share of padding of every batch of neighbours, by its first row."""
        lengths = np.array([length for length, _, _ in self._rows])
        sums = np.concatenate([[0], lengths.cumsum()])
        return 1 - (sums[size:] - sums[:-size]) / (size * lengths[size - 1 :])

    def _take(self, first: int, size: int) -> list[BatchRow]:
        taken = self._rows[first : first + size]
        del self._rows[first : first + size]
        return [row for _, _, row in taken]


def restore_chunks(
    items: Iterator[Chunk | Job], model: Model, batch_size: int, alone: bool = False
) -> Iterator[Chunk | Job]:
    """Restore chunks in batches; pass other items through, and chunks with nothing to restore.

    Chunks with and without statistics of their files are not mixed.

    Args:
        items: what is to be restored.
        model: restores a batch.
        batch_size: the most channels of chunks in a batch.
        alone: on a CPU, let few batches have all threads; the last bit of what comes out depends on
            how many threads a batch has, and so on what else is left to do.

    Raises:
        UserError: the memory is too small for a chunk.
    """
    found = _in_batches(items, batch_size)
    if model.side_by_side and torch.get_num_threads() > 1:
        yield from _side_by_side(found, model, alone)
        return
    for item in found:
        if isinstance(item, list):
            yield from restore_batch(item, model)  # type: ignore[misc]
        else:
            yield item


def _in_batches(
    items: Iterator[Chunk | Job], batch_size: int
) -> Iterator[list[BatchRow] | Chunk | Job]:
    """Yield batches of the chunks; other items, and chunks with nothing to restore, as they are."""
    waiting = {given: Waiting(batch_size) for given in (False, True)}
    for item in items:
        if not isinstance(item, Chunk) or not item.to_restore:
            yield item
            continue
        for channel in list(item.to_restore):
            batch = waiting[item.statistics is not None].add((item, channel))
            if batch:
                yield batch
    for kind in waiting.values():
        yield from kind.rest()


def _side_by_side(
    found: Iterator[list[BatchRow] | Chunk | Job], model: Model, alone: bool
) -> Iterator[Chunk | Job]:
    """Restore batches several at once, each with its share of torch's threads.

    Threads that share a batch wait for each other after every operation, all the longer where other
    programs run too; of what is alone, few batches are shared nevertheless.
    """
    num_threads = torch.get_num_threads()
    num_at_once = num_threads // -(-num_threads // MOST_AT_ONCE)
    first: list[list[BatchRow]] = []
    for item in found:
        if isinstance(item, list):
            first.append(item)
        else:
            yield item
        if len(first) == num_at_once:
            break
    if not first:
        return
    at_work: deque[tuple[list[BatchRow], Future[float]]] = deque()

    def oldest() -> Iterator[Chunk | Job]:
        batch, seconds = at_work.popleft()
        yield from _note(batch, seconds.result())  # type: ignore[misc]

    share = num_threads // (len(first) if alone else num_at_once)
    workers = ThreadPoolExecutor(len(first), initializer=torch.set_num_threads, initargs=(share,))
    try:
        for item in chain(first, found):
            if not isinstance(item, list):
                yield item
                continue
            at_work.append((item, workers.submit(_restore, item, model)))
            if len(at_work) > 2 * len(first):
                yield from oldest()
        while at_work:
            yield from oldest()
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # which threads that start later have, too


def restore_batch(batch: list[BatchRow], model: Model) -> list[ModelChunk]:
    """Restore a batch, in halves where the memory is too small; return the chunks that are whole.

    Raises:
        UserError: the memory is too small for one of them.
    """
    return _note(batch, _restore(batch, model))


def _restore(batch: list[BatchRow], model: Model) -> float:
    """Do what `restore_batch` does but for the notes of it; return the seconds it took."""
    began = time.perf_counter()
    try:
        on_device(batch, model)
        halves = []
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            seconds = batch[0][0].waveform.shape[1] / model.input_rate
            raise UserError(
                f"the GPU's memory is too small for a chunk of {seconds:g} s; use shorter chunks"
            ) from error
        halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        raise UserError(
            "the memory is too small for what is restored at once; use fewer threads "
            "(OMP_NUM_THREADS), smaller batches, or shorter chunks"
        ) from error
    for half in halves:  # out here, where the error no longer holds on to the memory
        _restore(half, model)
    return time.perf_counter() - began


def _note(batch: list[BatchRow], seconds: float) -> list[ModelChunk]:
    """Note what was done to the chunks of a batch; return those that are whole."""
    for chunk, channel in batch:
        chunk.seconds += seconds / len(batch)
        chunk.to_restore.remove(channel)
    # A chunk whose channels are in one batch is whole once.
    return [c for c in dict.fromkeys(chunk for chunk, _ in batch) if not c.to_restore]


def on_device(batch: list[BatchRow], model: Model) -> None:
    """Do to a batch what the device does: take it in, with its gains, restore it, give it back.

    Whatever else the process of the device does must cost little beside it: `benchmarks/restore.py
    --stand-in` measures the rest.

    Raises:
        OutOfMemoryError: of torch; nothing was given back.
    """
    num_samples = max(chunk.waveform.shape[1] for chunk, _ in batch)
    # From pinned memory a GPU reads several times as fast.
    waveform = torch.zeros(len(batch), num_samples, pin_memory=torch.cuda.is_initialized())
    for row, (chunk, channel) in zip(waveform.numpy(), batch, strict=True):
        samples = chunk.waveform[channel]
        np.multiply(samples, chunk.gains[channel], out=row[: len(samples)])
    lengths = torch.tensor([chunk.num_samples for chunk, _ in batch])
    keys = torch.cat([noise_key(chunk.seed) for chunk, _ in batch])
    starts = torch.tensor([chunk.start for chunk, _ in batch])
    given = [chunk.statistics[c] for chunk, c in batch if chunk.statistics is not None]
    statistics = torch.stack(given) if given else None
    restored = model.restore(waveform, lengths, keys, starts, statistics).numpy()
    for row, (chunk, channel) in zip(restored, batch, strict=True):
        gain = chunk.gains[channel] if model.restores_level else np.float32(1)
        np.divide(row[: chunk.restored.shape[1]], gain, out=chunk.restored[channel])
