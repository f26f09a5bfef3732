"""Restoring with worker processes: they read, cut, level and write; one process has the device.

That process, the feeder, gathers what all workers read into batches. `line.py` has the workers'
side, and says what goes from one to the other.
"""

import mmap
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
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
from open_miipher.corpus.line import Memory, SentRow
from open_miipher.corpus.run import Item
from open_miipher.distributed import Share
from open_miipher.restoration import Restorer
from open_miipher.restoration.batches import BatchRow, Waiting, restore_batch
from open_miipher.restoration.job import ModelChunk

MOST_WORKERS = 16
"""Each restores to FLAC at some 400 times real time; no model keeps more of them busy."""

WORTH_FROM = 1200.0
"""Seconds of audio that one process has read and written once workers have started."""

_AHEAD = 2  # items that a worker is given before it begins them
_DEVICE_AHEAD = 2  # batches: one on the device, and one that is made ready or given back meanwhile


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
    memory: Memory | None = None
    items: dict[str, Item] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    num_told: int = 0
    waits: bool = False
    is_over: bool = False
    is_stopped: bool = False
    under_way: float = 0.0
    blocks: "SimpleQueue[tuple[int, int, int] | None]" = field(default_factory=SimpleQueue)


@dataclass(eq=False)
class _DistantRow(ModelChunk):
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
        return _Feed(self, build, items, restorer, lost, clear_up).rows()


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
        self._next: deque[Item] = deque()  # one, and those whose worker died before it began them
        self._alone: deque[Item] = deque()  # whose worker died afterwards
        self._tries: Counter[str] = Counter()
        self._is_over = False
        self._num_failed_starts = 0
        self._waiting = {given: Waiting(restorer.batch_size) for given in (False, True)}
        self._ready: deque[list[BatchRow]] = deque()
        self._device = ThreadPoolExecutor(max_workers=_DEVICE_AHEAD)
        self._measuring = ThreadPoolExecutor(max_workers=workers.num_workers)
        self._measured: dict[Future[torch.Tensor], _Hand] = {}
        self._on_device: deque[Future[list[ModelChunk]]] = deque()
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
                elif self._has_next():
                    item = self._next.popleft()
                else:
                    is_last = True
                    break
                hand.items[item.id] = item
                hand.worker.send(("item", item))
            if (is_last and not hand.is_over) or (stopped and not hand.is_stopped):
                hand.is_over, hand.is_stopped = True, stopped
                hand.worker.send(("over", stopped))
        has_seat = len(self._hands) < self._workers.num_workers
        if not stopped and has_seat and (self._alone or self._has_next()):
            self._start()
        return bool(self._hands)

    def _has_next(self) -> bool:
        """Whether `_next` has an item to give out; it takes one more where it has none."""
        if not self._next and not self._is_over:
            item = next(self._items, None)
            if item is None:
                self._is_over = True
            else:
                self._next.append(item)
        return bool(self._next)

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
                waiting = next((kind for kind in self._waiting.values() if kind), None)
                if waiting is not None:
                    self._ready.append(waiting.first())
            if not self._ready:
                return
            future = self._device.submit(restore_batch, self._ready.popleft(), self._model)
            self._on_device.append(future)
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
            hand.memory = Memory(descriptor, self._num_bytes)
        except OSError as error:
            raise UserError(
                f"no memory can be shared with workers ({error.strerror}); --num-workers 0 does "
                "without them"
            ) from error

    def _take(self, hand: _Hand, what: str, *content: Any) -> Iterator[Row]:
        if what == "chunk":
            sent, hand.under_way = content
            row = _row(hand, sent)
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

    def _tell_results(self) -> None:
        """Say what the device has done, and what other threads have to say."""
        while not self._outbox.empty():
            hand, message = self._outbox.get()
            hand.worker.send(message)
        for measured in [future for future in self._measured if future.done()]:
            hand = self._measured.pop(measured)
            if hand.worker.connection in self._hands:  # else it died, and the signal has no end
                hand.worker.send(("measured", measured.result().numpy()))
        while self._on_device and self._on_device[0].done():
            for row in self._on_device.popleft().result():
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
                self._next.append(item)
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


def _row(hand: _Hand, sent: SentRow) -> _DistantRow:
    assert hand.memory is not None
    own = sent.statistics
    return _DistantRow(
        waveform=hand.memory.array(sent.place, sent.num_given)[None],
        num_samples=sent.num_samples,
        start=sent.start,
        gains=np.array([sent.gain], np.float32),
        statistics=None if own is None else torch.from_numpy(own)[None],
        seed=sent.seed,
        to_restore=[0],
        restored=hand.memory.array(sent.place, sent.num_made)[None],
        hand=hand,
        place=sent.place,
    )


def _memory_bytes(restorer: Restorer, num_workers: int) -> int:
    """Return the size of each worker's memory: what all have together fills batches of any length.

    Whole chunks for three batches, so many shorter ones as wait for their likes (`PATIENCE`), and
    two for each worker at least.
    """
    model, grid = restorer.model, restorer.options.grid(restorer.model)
    floats = grid.chunk_frames * max(model.input_hop, model.output_hop)
    num_rows = max(2, -(-3 * restorer.batch_size // num_workers))
    size = num_rows * Memory.size_of(floats)
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
