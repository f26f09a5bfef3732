"""A worker's line to the process that has the device, the feeder.

A row, which is a channel of a chunk, lies in memory that both share; what the model makes of it
takes its place. Messages say where it lies, and no audio is copied but once on each side.

The feeder sends:

    ("item", item)               to be done, some ahead of time
    ("over", stopped)            no more come: all are done, or a signal came
    ("restored", (place, s))     a row is, which took the model s seconds
    ("block", (place, numbers))  of a signal that is measured is read: its place is free
    ("measured", array)          the statistics of that signal
    ("closed", None)             the answer to "ended"

The worker tells:

    ("begun", id)                it has begun an item
    ("chunk", row, s)            a `SentRow` is to be restored; s seconds of audio that are restored
                                 are not written yet
    ("waits", number)            it can do nothing before more than so many rows have come back
    ("measure",)                 a signal comes in blocks, to be measured
    ("block", (place, channels, length) or None)
                                 one of these, or their end
    ("row", row, s)              what became of an item
    ("ended",)                   all is done
"""

import mmap
import os
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from open_miipher.base.rows import Row
from open_miipher.corpus import pool
from open_miipher.corpus.run import Item
from open_miipher.restoration import Job
from open_miipher.restoration.job import Chunk
from open_miipher.restoration.restorer import assemble, read_chunks

_ALIGNED = 64  # bytes
_FLOAT = 4  # bytes


class SentRow(NamedTuple):
    """What is told of a row; see `restoration.job.ModelChunk`.

    Attributes:
        place: where it lies, the first byte.
        num_given: samples that lie there.
        num_made: samples that the model makes of them.
        num_samples: of them before the padding.
        start: of its output in the whole.
        gain: of what the model is given.
        statistics: to normalise by, (numbers,), or None.
        seed: of the noise.
    """

    place: int
    num_given: int
    num_made: int
    num_samples: int
    start: int
    gain: float
    statistics: np.ndarray | None
    seed: int


class Memory:
    """Memory of two processes, in which one of them hands out places.

    Args:
        descriptor: of the file that is this memory; closed. It has no name (memfd): nothing is left
            of it when both are killed.
        num_bytes: its size.
    """

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._map = mmap.mmap(descriptor, num_bytes)
        os.close(descriptor)
        self._holes = [(0, num_bytes)]  # first byte and the one after the last, in order

    @staticmethod
    def size_of(num_floats: int) -> int:
        """Return how many bytes a place for so many numbers takes."""
        return -(-num_floats * _FLOAT // _ALIGNED) * _ALIGNED

    def take(self, num_floats: int) -> int | None:
        """Return the first byte of a place for so many numbers; None: there is none."""
        size = self.size_of(num_floats)
        for number, (start, end) in enumerate(self._holes):
            if end - start >= size:
                self._holes[number : number + 1] = [(start + size, end)] * (end - start > size)
                return start
        return None

    def give_back(self, start: int, num_floats: int) -> None:
        """Have the place free again."""
        end = start + self.size_of(num_floats)
        for hole in [h for h in self._holes if h[0] == end or h[1] == start]:
            self._holes.remove(hole)
            start, end = min(start, hole[0]), max(end, hole[1])
        insort(self._holes, (start, end))

    def array(self, start: int, num_floats: int) -> np.ndarray:
        """Return the float32 numbers of a place; no copy."""
        return np.frombuffer(self._map, np.float32, num_floats, start)


class DistantModel:
    """A model as a worker sees it: all that is known of it, and another process that asks it.

    Args:
        model: whose attributes it has (see `restoration.Model`).
    """

    def __init__(self, model: Any) -> None:
        self.input_rate, self.input_hop = model.input_rate, model.input_hop
        self.output_rate, self.output_hop = model.output_rate, model.output_hop
        self.needs_statistics = model.needs_statistics
        self.restores_level, self.is_light = model.restores_level, model.is_light
        self.side_by_side, self.fingerprint = False, model.fingerprint
        self.line: Line | None = None  # in a worker

    def measure(self, blocks: Iterable[np.ndarray]) -> torch.Tensor:
        """Have the statistics of a signal measured."""
        assert self.line is not None
        return self.line.measure(blocks)

    def restore(self, *_: Any) -> torch.Tensor:
        """Refuse: the line has chunks restored."""
        raise NotImplementedError("a worker has no model")


class Line(Iterator[Item]):
    """A worker's line to the feeder: items and restored rows come in, rows go out.

    Args:
        num_bytes: of the memory whose file the feeder sends.

    Attributes:
        under_way: gives the seconds of audio that are restored of what is not written yet.
    """

    def __init__(self, num_bytes: int) -> None:
        self._memory, self._num_floats = Memory(pool.hear_file(), num_bytes), num_bytes // _FLOAT
        self._items: deque[Item] = deque()
        self._is_over = self._is_stopped = self._is_closed = False
        self._sent: dict[int, tuple[Chunk, int]] = {}  # chunks and channels, by place
        self._whole: deque[Chunk] = deque()
        self._num_heard = 0  # rows that came back
        self._answer: torch.Tensor | None = None
        self.under_way: Callable[[], float] = lambda: 0.0

    def __next__(self) -> Item:
        while not self._items and not self._is_over:
            self._hear()
        if self.stopped or not self._items:
            raise StopIteration
        item = self._items.popleft()
        pool.tell(("begun", item.id))
        return item

    @property
    def stopped(self) -> bool:
        """Whether a signal came; see `Share.stopped`."""
        while self._hear(wait_for_it=False):
            pass
        return self._is_stopped

    def close(self) -> None:
        """Say that all is done, and hear what was on its way."""
        pool.tell(("ended",))
        while not self._is_closed:
            self._hear()

    def finished(self, row: Row) -> None:
        """Tell what became of an item."""
        pool.tell(("row", row, self.under_way()))

    def restore_jobs(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Restore signals, several at once (see `restoration.restorer.restore_jobs`)."""
        return assemble(self._restored(read_chunks(jobs)))

    def measure(self, blocks: Iterable[np.ndarray]) -> torch.Tensor:
        """Have the feeder measure the statistics of a signal (see `Model.measure`)."""
        pool.tell(("measure",))
        for block in _pieces(blocks, self._num_floats // 2):
            while (place := self._memory.take(block.size)) is None:
                self._wait()
            self._memory.array(place, block.size)[:] = block.ravel()
            pool.tell(("block", (place, *block.shape)))
            while self._hear(wait_for_it=False):  # else both sides might wait to be heard
                pass
        pool.tell(("block", None))
        while self._answer is None:
            self._hear()
        answer, self._answer = self._answer, None
        return answer

    def _restored(self, items: Iterable[Chunk | Job]) -> Iterator[Chunk | Job]:
        for item in items:
            if not isinstance(item, Chunk) or not item.to_restore:
                yield item
                continue
            size = max(item.waveform.shape[1], item.restored.shape[1])
            for channel in list(item.to_restore):
                while (place := self._memory.take(size)) is None:
                    self._wait()
                    yield from self._taken()
                self._send(item, channel, place)
            while self._hear(wait_for_it=False):
                pass
            yield from self._taken()
        yield from self._taken()  # also what came while the last item was asked for
        while self._sent:
            self._wait()
            yield from self._taken()

    def _taken(self) -> Iterator[Chunk]:
        while self._whole:
            yield self._whole.popleft()

    def _send(self, chunk: Chunk, channel: int, place: int) -> None:
        samples, statistics = chunk.waveform[channel], chunk.statistics
        self._memory.array(place, len(samples))[:] = samples
        self._sent[place] = chunk, channel
        own = None if statistics is None else statistics[channel].numpy()
        gain, num_made = float(chunk.gains[channel]), chunk.restored.shape[1]
        about = len(samples), num_made, chunk.num_samples, chunk.start, gain, own, chunk.seed
        pool.tell(("chunk", SentRow(place, *about), self.under_way()))

    def _wait(self) -> None:
        if not self._hear(wait_for_it=False):
            pool.tell(("waits", self._num_heard))
            self._hear()

    def _hear(self, wait_for_it: bool = True) -> bool:
        """Take a message in; False: there is none."""
        message = pool.hear(wait_for_it)
        if message is None:
            return False
        kind, content = message
        if kind == "item":
            self._items.append(content)
        elif kind == "over":
            self._is_over, self._is_stopped = True, content
        elif kind == "measured":
            self._answer = torch.from_numpy(content)
        elif kind == "block":
            self._memory.give_back(*content)
        elif kind == "closed":
            self._is_closed = True
        else:
            self._take_back(*content)
        return True

    def _take_back(self, place: int, seconds: float) -> None:
        chunk, channel = self._sent.pop(place)
        size = chunk.restored.shape[1]
        chunk.restored[channel] = self._memory.array(place, size)
        self._memory.give_back(place, max(size, chunk.waveform.shape[1]))
        chunk.seconds += seconds
        chunk.to_restore.remove(channel)
        self._num_heard += 1
        if not chunk.to_restore:
            self._whole.append(chunk)


def _pieces(blocks: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Cut blocks (channels, n) into pieces of so many numbers at most."""
    for block in blocks:
        length = max(1, most // len(block))
        for start in range(0, block.shape[1], length):
            yield block[:, start : start + length]
