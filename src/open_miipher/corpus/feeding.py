"""Restoring with worker processes: they read, cut, level and write; one process has the device.

That process, the feeder, gathers what all workers read into batches. A row, which is a channel of a
chunk, lies in memory that a worker and the feeder share; what the model makes of it takes its
place. Messages say where it lies, and no audio is copied but once on each side.

The memory has no name (memfd): nothing is left of it when its processes are killed.
"""

import mmap
import os
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from open_miipher.base.errors import UserError
from open_miipher.base.rows import Row
from open_miipher.base.threads import num_cores
from open_miipher.corpus import pool
from open_miipher.corpus.run import Item
from open_miipher.distributed import Share
from open_miipher.restoration import Job, Restorer
from open_miipher.restoration.batches import Row as BatchRow
from open_miipher.restoration.batches import Waiting, restore_batch
from open_miipher.restoration.job import Chunk, Piece
from open_miipher.restoration.restorer import assemble, read_chunks

MOST_WORKERS = 16
"""Each restores to WAV or FLAC at some 500 times real time; no model keeps more of them busy."""

WORTH_FROM = 1200.0
"""Seconds of audio that one process has read and written once workers have started."""

_AHEAD = 2  # items that a worker is given before it begins them
_DEVICE_AHEAD = 2  # batches: one on the device, and one that is made ready or given back meanwhile
_ALIGNED = 64  # bytes
_FLOAT = 4  # bytes


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
        self.fingerprint = model.fingerprint
        self.line: Line | None = None  # in a worker

    def measure(self, blocks: Iterable[np.ndarray]) -> torch.Tensor:
        """Have the statistics of a signal measured."""
        assert self.line is not None
        return self.line.measure(blocks)

    def restore(self, *_: Any) -> torch.Tensor:
        """Do nothing: the line restores chunks."""
        raise NotImplementedError("a worker has no model")


class _Memory:
    """Memory of two processes, in which one of them hands out places.

    Args:
        descriptor: of the file that is this memory; closed.
        num_bytes: its size.
    """

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._map = mmap.mmap(descriptor, num_bytes)
        os.close(descriptor)
        self._holes = [(0, num_bytes)]  # first byte and the one after the last, in order

    def take(self, num_floats: int) -> int | None:
        """Return the first byte of a place for so many numbers; None: there is none."""
        size = -(-num_floats * _FLOAT // _ALIGNED) * _ALIGNED
        for number, (start, end) in enumerate(self._holes):
            if end - start >= size:
                self._holes[number : number + 1] = [(start + size, end)] * (end - start > size)
                return start
        return None

    def give_back(self, start: int, num_floats: int) -> None:
        """Have the place free again."""
        end = start + -(-num_floats * _FLOAT // _ALIGNED) * _ALIGNED
        for hole in [h for h in self._holes if h[0] == end or h[1] == start]:
            self._holes.remove(hole)
            start, end = min(start, hole[0]), max(end, hole[1])
        insort(self._holes, (start, end))

    def array(self, start: int, num_floats: int) -> np.ndarray:
        """Return the float32 numbers of a place; no copy."""
        return np.frombuffer(self._map, np.float32, num_floats, start)


class Line(Iterator[Item]):
    """A worker's line to the feeder: items and restored rows come in, rows go out.

    Args:
        num_bytes: of the memory whose file the feeder sends.

    Attributes:
        under_way: gives the seconds of audio that are restored of what is not written yet.
    """

    def __init__(self, num_bytes: int) -> None:
        self._memory, self._num_floats = _Memory(pool.hear_file(), num_bytes), num_bytes // _FLOAT
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
        pool.tell(("chunk", place, about, self.under_way()))

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


@dataclass(eq=False)
class _Hand:
    """A worker in a run.

    Attributes:
        worker: the process.
        memory: shared with it.
        items: given to it and not finished, by id.
        begun: those of them that it has begun.
        num_told: rows that went back to it.
        waits: it can do nothing before one more comes back.
        is_over: it was told that no more items come.
        is_stopped: it was told that a signal came.
        under_way: seconds of audio restored of what it has not finished.
        blocks: of the signal that is measured for it.
    """

    worker: pool.Worker
    memory: _Memory | None = None
    items: dict[str, Item] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    num_told: int = 0
    waits: bool = False
    is_over: bool = False
    is_stopped: bool = False
    under_way: float = 0.0
    blocks: "SimpleQueue[tuple[int, int, int] | None]" = field(default_factory=SimpleQueue)


@dataclass(eq=False)
class _DistantRow(Piece):
    """A row that lies in the memory of a worker."""

    hand: _Hand
    place: int


class Workers(AbstractContextManager["Workers"]):
    """Processes for one run after another; they end with this process.

    Args:
        num_workers: started as there are items for them; 0: this process does all of it.
        worth_from: seconds of audio from which on they are used.

    Raises:
        UserError: the system has no memory without a name to share.
    """

    def __init__(self, num_workers: int, worth_from: float = 0.0) -> None:
        if num_workers and not hasattr(os, "memfd_create"):
            raise UserError(f"--num-workers {num_workers}: workers need Linux; choose 0")
        self.num_workers, self.worth_from = num_workers, worth_from
        self.processes: list[pool.Worker] = []

    @classmethod
    def suited(cls, device: torch.device, num_sharing: int) -> "Workers":
        """Return as many as keep a device busy, for runs that are worth their start.

        Args:
            device: that the model is on. A CPU's cores are the model's own.
            num_sharing: processes with a model on this machine.
        """
        if device.type == "cpu" or not hasattr(os, "memfd_create"):
            return cls(0)
        return cls(min(MOST_WORKERS, max(1, num_cores() // num_sharing - 1)), WORTH_FROM)

    def are_worth(self, seconds: float) -> bool:
        """Whether so many seconds of audio are for them."""
        return self.num_workers > 0 and seconds >= self.worth_from

    @property
    def pids(self) -> list[int]:
        """Process ids of those that live."""
        return [worker.process.pid for worker in self.processes if worker.process.pid is not None]

    def __exit__(self, *_: object) -> None:
        for worker in self.processes:
            worker.end()
        self.processes.clear()

    def restore(
        self,
        build: Callable[[], Callable[[int], None]],
        items: Share[Item],
        restorer: Restorer,
        lost: Callable[[Item, str], Row],
        clear_up: Callable[[Item], None],
    ) -> Iterator[Row]:
        """Restore every item, in any order. To be called on the main thread.

        Args:
            build: called once in each worker; gives what restores over a `Line` there, from the
                size of its memory. It is picklable.
            items: taken as workers are free.
            restorer: has the model.
            lost: gives the row of an item whose worker died too often.
            clear_up: called here after an item was given up, before it is tried again.

        Yields:
            The rows.

        Raises:
            UserError: no further item can be done.
        """
        feed = _Feed(self, build, items, restorer, lost, clear_up)
        return feed.rows()


class _Feed:
    """One run of the feeder; see `Workers.restore`."""

    def __init__(
        self,
        workers: Workers,
        build: Callable[[], Callable[[int], None]],
        items: Share[Item],
        restorer: Restorer,
        lost: Callable[[Item, str], Row],
        clear_up: Callable[[Item], None],
    ) -> None:
        self._workers, self._build, self._items = workers, build, items
        self._model, self._lost, self._clear_up = restorer.model, lost, clear_up
        self._num_bytes = _memory_bytes(restorer, workers.num_workers)
        self._hands: dict[Any, _Hand] = {}  # by connection
        self._again: deque[Item] = deque()  # whose worker died before it began them
        self._alone: deque[Item] = deque()  # whose worker died afterwards
        self._tries: Counter[str] = Counter()
        self._is_over = False
        self._num_failed_starts = 0
        self._waiting = {given: Waiting(restorer.batch_size) for given in (False, True)}
        self._ready: deque[list[BatchRow]] = deque()
        self._device = ThreadPoolExecutor(max_workers=_DEVICE_AHEAD)
        self._measuring = ThreadPoolExecutor(max_workers=workers.num_workers)
        self._measured: dict[Future[torch.Tensor], _Hand] = {}
        self._on_device: deque[tuple[Future[list[Piece]], list[BatchRow]]] = deque()
        self._outbox: SimpleQueue[tuple[_Hand, Any]] = SimpleQueue()  # of other threads
        self._awake, self._wake = Pipe(duplex=False)
        items.under_way = lambda: sum(hand.under_way for hand in list(self._hands.values()))

    def rows(self) -> Iterator[Row]:
        try:
            while self._hand_out() or self._on_device:
                self._keep_device_busy()
                yield from self._events()
            self._hands.clear()
        finally:
            for hand in self._hands.values():  # something went wrong, or nobody wants more
                self._end(hand)
            for threads in (self._device, self._measuring):
                threads.shutdown(cancel_futures=True)

    def _hand_out(self) -> bool:
        """Give items to workers, and start those that are needed; return whether any is at work."""
        stopped = self._items.stopped
        for hand in self._hands.values():
            if hand.memory is None:
                continue
            is_last = stopped
            while not (hand.is_over or is_last) and len(hand.items) - len(hand.begun) < _AHEAD:
                # A worker that waits for an item does nothing else: it has one, or hears the end.
                if self._alone and not hand.items:
                    item, is_last = self._alone.popleft(), True
                elif self._fill():
                    item = self._again.popleft()
                else:
                    is_last = True
                    break
                hand.items[item.id] = item
                hand.worker.send(("item", item))
            if (is_last and not hand.is_over) or (stopped and not hand.is_stopped):
                hand.is_over, hand.is_stopped = True, stopped
                hand.worker.send(("over", stopped))
        has_seat = len(self._hands) < self._workers.num_workers
        if not stopped and has_seat and (self._alone or self._fill()):
            self._start()
        return bool(self._hands)

    def _fill(self) -> bool:
        """Have an item ready that needs no worker for itself, and say whether there is one."""
        if not self._again and not self._is_over:
            item = next(self._items, None)
            self._again.extend([] if item is None else [item])
            self._is_over = item is None
        return bool(self._again)

    def _start(self) -> None:
        """Have one more process ready for this run."""
        taken = {hand.worker for hand in self._hands.values()}
        worker = next((w for w in self._workers.processes if w not in taken), None)
        if worker is None:
            places = {w.place for w in self._workers.processes}
            place = next(p for p in range(self._workers.num_workers) if p not in places)
            worker = pool.Worker(place)
            self._workers.processes.append(worker)
        worker.start(self._build)
        self._hands[worker.connection] = _Hand(worker)

    def _keep_device_busy(self) -> None:
        while len(self._on_device) < _DEVICE_AHEAD:
            if not self._ready and not self._on_device and self._all_wait():
                first = next((kind for kind in self._waiting.values() if kind), None)
                self._ready.extend([] if first is None else [first.first()])
            if not self._ready:
                return
            batch = self._ready.popleft()
            future = self._device.submit(restore_batch, batch, self._model)
            self._on_device.append((future, batch))
            future.add_done_callback(self._wake_up)

    def _wake_up(self, _: object = None) -> None:
        self._wake.send_bytes(b".")

    def _all_wait(self) -> bool:
        """Whether no row will come before one goes back; workers that start are not waited for."""
        at_work = [hand for hand in self._hands.values() if hand.begun]
        return all(hand.waits for hand in at_work)

    def _events(self) -> Iterator[Row]:
        """Wait a moment for what workers and the device have to say."""
        for connection in wait([*self._hands, self._awake], pool.LOOK_EVERY):
            if connection is self._awake:
                self._awake.recv_bytes()
                self._tell_results()
                continue
            hand = self._hands[connection]
            kind, content = hand.worker.receive()
            if kind == pool.READY:
                hand.worker.is_ready, self._num_failed_starts = True, 0
                self._share_memory(hand)
            elif kind == pool.PART:
                yield from self._take(hand, *content)
            elif kind == pool.DONE:
                del self._hands[connection]
            elif kind == pool.REFUSED:
                raise UserError(content)
            elif kind == pool.BROKEN:
                raise pool.WorkerError(content)
            elif kind == pool.DIED:
                yield from self._replace(hand, content)

    def _share_memory(self, hand: _Hand) -> None:
        try:
            descriptor = os.memfd_create("open_miipher")
            os.ftruncate(descriptor, self._num_bytes)
            hand.worker.send(self._num_bytes)
            hand.worker.send_file(descriptor)
            hand.memory = _Memory(descriptor, self._num_bytes)
        except OSError as error:
            raise UserError(
                f"no memory can be shared with workers ({error.strerror}); --num-workers 0 does "
                "without them"
            ) from error

    def _take(self, hand: _Hand, what: str, *content: Any) -> Iterator[Row]:
        if what == "chunk":
            place, about, hand.under_way = content
            row = self._row(hand, place, *about)
            batch = self._waiting[row.statistics is not None].add((row, 0))
            self._ready.extend([batch] if batch else [])
        elif what == "waits":
            hand.waits = content[0] == hand.num_told
        elif what == "begun":
            hand.begun.add(content[0])
        elif what == "row":
            row_of_item, hand.under_way = content
            del hand.items[row_of_item["id"]]
            hand.begun.remove(row_of_item["id"])
            yield row_of_item
        elif what == "ended":
            hand.is_over = hand.is_stopped = True  # nothing more is sent
            hand.worker.send(("closed", None))
        elif what == "measure":
            future = self._measuring.submit(self._model.measure, self._blocks(hand))
            self._measured[future] = hand
            future.add_done_callback(self._wake_up)
        elif what == "block":
            hand.blocks.put(content[0])

    def _row(
        self,
        hand: _Hand,
        place: int,
        num_given: int,
        num_made: int,
        num_samples: int,
        start: int,
        gain: float,
        statistics: np.ndarray | None,
        seed: int,
    ) -> _DistantRow:
        assert hand.memory is not None
        return _DistantRow(
            waveform=hand.memory.array(place, num_given)[None],
            num_samples=num_samples,
            start=start,
            gains=np.array([gain], np.float32),
            statistics=None if statistics is None else torch.from_numpy(statistics)[None],
            seed=seed,
            to_restore=[0],
            restored=hand.memory.array(place, num_made)[None],
            hand=hand,
            place=place,
        )

    def _tell_results(self) -> None:
        """Say what the device has done, and what other threads have to say."""
        while not self._outbox.empty():
            hand, message = self._outbox.get()
            hand.worker.send(message)
        for measured in [future for future in self._measured if future.done()]:
            hand = self._measured.pop(measured)
            if hand.worker.connection in self._hands:  # else it died, and the signal has no end
                hand.worker.send(("measured", measured.result().numpy()))
        while self._on_device and self._on_device[0][0].done():
            future, _ = self._on_device.popleft()
            for row in future.result():
                assert isinstance(row, _DistantRow)
                row.hand.num_told += 1
                row.hand.waits = False
                row.hand.worker.send(("restored", (row.place, row.seconds)))

    def _blocks(self, hand: _Hand) -> Iterator[np.ndarray]:
        """Yield the signal that is measured for a worker, in another thread."""
        assert hand.memory is not None
        while (block := hand.blocks.get()) is not None:
            start, num_rows, length = block
            copy = hand.memory.array(start, num_rows * length).reshape(num_rows, length).copy()
            self._outbox.put((hand, ("block", (start, num_rows * length))))
            self._wake_up()
            yield copy

    def _replace(self, hand: _Hand, how: str) -> Iterator[Row]:
        """Forget a worker that died; what it had begun is tried again, each with a worker alone."""
        self._end(hand)
        del self._hands[hand.worker.connection]
        if not hand.worker.is_ready:
            self._num_failed_starts += 1
            pool.check_starts(self._num_failed_starts, how)
        for item in hand.items.values():
            if item.id not in hand.begun:
                self._again.append(item)
                continue
            self._tries[item.id] += 1
            if self._tries[item.id] <= pool.RETRIES:
                self._alone.append(item)
            else:
                yield self._lost(item, f"its worker process ended {pool.RETRIES + 1} times ({how})")

    def _end(self, hand: _Hand) -> None:
        hand.worker.end()
        hand.blocks.put(None)  # what is measured for it
        if hand.worker in self._workers.processes:
            self._workers.processes.remove(hand.worker)
        for item in hand.items.values():
            self._clear_up(item)


def _pieces(blocks: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Cut blocks (channels, n) into pieces of so many numbers at most."""
    for block in blocks:
        length = max(1, most // len(block))
        for start in range(0, block.shape[1], length):
            yield block[:, start : start + length]


def _memory_bytes(restorer: Restorer, num_workers: int) -> int:
    """Return the size of each worker's memory: what all have together fills batches of any length.

    Whole chunks for three batches, so many shorter ones as wait for their likes (`PATIENCE`), and
    two for each worker at least.
    """
    model, grid = restorer.model, restorer.options.grid(restorer.model)
    floats = grid.chunk_frames * max(model.input_hop, model.output_hop)
    num_rows = max(2, -(-3 * restorer.batch_size // num_workers))
    size = num_rows * -(-floats * _FLOAT // _ALIGNED) * _ALIGNED
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
