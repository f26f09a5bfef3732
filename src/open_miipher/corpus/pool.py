"""Worker processes: each builds its own state once, and then does one item after another.

They are spawned, not forked, so that nothing of this process (threads, a GPU's context) is in them.
A worker that dies is replaced, and costs its item one try. An item whose function gives an iterator
is told part by part, and the worker that is at it has its next one from the first part on.
"""

import math
import os
import pickle
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from multiprocessing import get_context, reduction, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from open_miipher.base.errors import UserError
from open_miipher.base.threads import use_one_blas_thread
from open_miipher.corpus.run import Item
from open_miipher.distributed import die_with_parent, ignore_stop_signals, stop_signals_wait
from open_miipher.distributed.process import STOP_SIGNALS

R = TypeVar("R")

RETRIES = 2
"""How often an item is tried again whose worker died."""

_SPAWN = get_context("spawn")
_DYING_SECONDS = 5.0  # between the end of its connection and its own
LOOK_EVERY = 0.2  # s, at whether a signal came
_FAILED_STARTS = 3  # one after another: the next would fare no better
READY, BEGUN, PART, ENDED, DONE, REFUSED, BROKEN, DIED = range(8)
"""What a worker's message says; the last is said of it."""


_place = 0
_connection: Connection | None = None


def tell(part: Any) -> None:
    """Tell, in a worker, its pool's process a part of what its function has done so far."""
    assert _connection is not None
    _connection.send((PART, part))


def hear(wait_for_it: bool = True) -> Any:
    """Return, in a worker, what its pool's process sent meanwhile; None: nothing, without a wait.

    The worker ends here when that process has ended the connection.
    """
    assert _connection is not None
    if not wait_for_it and not _connection.poll():
        return None
    try:
        return pickle.loads(_connection.recv_bytes())
    except EOFError:
        raise SystemExit from None


def hear_file() -> int:
    """Return, in a worker, the descriptor of a file that its pool's process sent."""
    assert _connection is not None
    return reduction.recv_handle(_connection)


def worker_place() -> int:
    """Return, in a worker, which of its pool's it is: 0 … number of workers - 1.

    One that takes the place of a dead one has its number.
    """
    return _place


def _check_script() -> None:
    """See that there is the script of this process, which a worker imports first.

    Raises:
        UserError: there is not: Python reads it from a pipe.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and path is not None and not os.path.exists(path):
        raise UserError(
            f"worker processes import the script that starts them, and {path} is no file: write it "
            "to one, or do without workers"
        )


class WorkerError(RuntimeError):
    """A fault in the code that a worker runs; the message is its traceback."""


class Worker:
    """One process, of a pool or of `corpus.feeding`.

    Args:
        place: what `worker_place` gives in it.

    Attributes:
        place: as given.
        build: built its state, or is about to.
        is_ready: its state is built.
        item: what it was given.
        next_item: what it is to do after that, and has been given as well.
        has_begun: whether it has read it.
        deadline: when that has taken too long, by the monotonic clock.

    Raises:
        UserError: the system refuses to start it, or it could not import this process's script.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        _check_script()
        try:
            self._launch()
        except OSError as error:
            raise UserError(
                f"a worker process cannot be started ({error.strerror}); use fewer of them, or "
                "raise the limit of the system"
            ) from error
        self.build: Callable[[], Any] | None = None
        self.is_ready = False
        self.item: Item | None = None
        self.next_item: Item | None = None
        self.has_begun = False
        self.deadline = math.inf

    def _launch(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        with closing(theirs):  # here, so that its end is seen
            self.process = _SPAWN.Process(target=_work, args=(theirs, self.place), daemon=True)
            use_one_blas_thread()  # in it; here it is too late for that
            resource_tracker.ensure_running()  # now: it would unblock the signals
            with stop_signals_wait():  # one to all processes would end it with a traceback
                self.process.start()

    @property
    def is_idle(self) -> bool:
        """Whether it can be given an item."""
        return self.is_ready and self.item is None

    def start(self, build: Callable[[], Any]) -> None:
        """Have it build its state."""
        self.build, self.is_ready = build, False
        self.send(build)

    def send(self, content: Any) -> bool:
        """Send what to build, an item, or what it hears; False if the process is dead."""
        try:
            self.connection.send_bytes(pickle.dumps(content))
        except OSError:
            return False
        return True

    def send_file(self, descriptor: int) -> None:
        """Send an open file, which it hears with `hear_file`."""
        with suppress(OSError):  # the process is dead
            reduction.send_handle(self.connection, descriptor, self.process.pid)

    def receive(self) -> tuple[int, Any]:
        """Return what it says, or how it died."""
        try:
            message: tuple[int, Any] = self.connection.recv()
        except (EOFError, OSError):
            message = DIED, self.end(_DYING_SECONDS)
        return message

    def end(self, patience_seconds: float = 0.0) -> str:
        """See that it has ended, and say how."""
        self.process.join(patience_seconds)
        self.process.kill()
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return f"signal {-code}; is memory short?" if code < 0 else f"exit status {code}"


class Pool(AbstractContextManager["Pool"]):
    """Worker processes that serve one map after another; they end with this process.

    Args:
        num_workers: at least 1; started as there are items for them.
        seconds_per_item: after which a worker is killed, as if it had died; None: never. An item
            that is told in parts has so long for each.
        retries: how often an item is tried again whose worker died.
    """

    def __init__(
        self,
        num_workers: int,
        seconds_per_item: float | None = None,
        retries: int = RETRIES,
    ) -> None:
        self._num_workers, self._seconds_per_item = num_workers, seconds_per_item
        self._retries = retries
        self._workers: list[Worker] = []
        self._num_failed_starts = 0

    def __exit__(self, *_: object) -> None:
        self._end(self._workers)

    def map(
        self,
        build: Callable[[], Callable[[Item], R]],
        items: Iterator[Item],
        stopped: Callable[[], bool],
        clear_up: Callable[[Item], None],
    ) -> Iterator[tuple[Item, R | None, str | None]]:
        """Do every item, in any order. To be called on the main thread.

        Args:
            build: called once in each worker; gives the function that does an item there. It is
                picklable, and so is the result, or each part where that is an iterator.
            items: taken as workers are free.
            stopped: whether a signal came; what is under way is given up at once.
            clear_up: called here after a worker died at an item, before that is tried again.

        Yields:
            An item, what the function gave, or a part of it, and None; or, after its last try, None
            and the reason.

        Raises:
            UserError: as `build` or the function; or workers die before they are ready.
            WorkerError: any other error of theirs.
        """
        tries: Counter[str] = Counter()
        queue: deque[Item] = deque()
        is_over = False

        def fill(num_wanted: int) -> None:
            nonlocal is_over
            while not is_over and len(queue) < num_wanted:
                found = next(items, None)
                queue.extend([] if found is None else [found])
                is_over = found is None

        try:
            while not stopped():
                num_busy = sum(worker.item is not None for worker in self._workers)
                fill(self._num_workers - num_busy)
                if not queue and not num_busy:
                    return
                self._hand_out(queue, build)
                for worker, kind, content in self._events():
                    item = worker.item
                    if kind in (ENDED, DONE, REFUSED, BROKEN):
                        worker.item, worker.next_item = worker.next_item, None
                        worker.has_begun = False
                    if kind == REFUSED:
                        raise UserError(content)
                    elif kind == BROKEN:
                        raise WorkerError(content)
                    elif kind == PART and item is not None:
                        if worker.next_item is None and not stopped():
                            fill(1)
                            if queue and worker.send(queue[0]):
                                worker.next_item = queue.popleft()
                        yield item, content, None
                    elif kind == DONE and item is not None:
                        yield item, content, None
                    elif kind == DIED:
                        self._remove(worker, content)
                        queue.extend([] if worker.next_item is None else [worker.next_item])
                        if item is not None:
                            clear_up(item)
                            tries[item.id] += worker.has_begun  # else it died idle
                            if tries[item.id] > self._retries:
                                times = f" {self._retries + 1} times" if self._retries else ""
                                yield item, None, f"its worker process ended{times} ({content})"
                            else:
                                queue.appendleft(item)
        finally:
            self._end([worker for worker in self._workers if not worker.is_idle])

    def _hand_out(self, queue: deque[Item], build: Callable[[], Any]) -> None:
        """Give items to the workers that are idle, and have others ready for those left."""
        idle = [worker for worker in self._workers if worker.is_idle]
        for worker in idle:
            if queue and worker.build is build and worker.send(queue[0]):
                worker.item, worker.has_begun = queue.popleft(), False
                worker.deadline = self._deadline()
        others = [worker for worker in idle if worker.build is not build]  # of the map before
        num_starting = sum(not worker.is_ready for worker in self._workers)
        for _ in range(len(queue) - num_starting):
            if others:
                others.pop().start(build)
            elif len(self._workers) < self._num_workers:
                taken = {worker.place for worker in self._workers}
                place = next(p for p in range(self._num_workers) if p not in taken)
                self._workers.append(Worker(place))
                self._workers[-1].start(build)

    def _events(self) -> Iterator[tuple[Worker, int, Any]]:
        """Wait a moment for what workers say at the end of work, or for why one died."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), LOOK_EVERY):
            worker = by_connection[connection]  # type: ignore[index]
            kind, content = worker.receive()
            if kind == READY:
                worker.is_ready, self._num_failed_starts = True, 0
            elif kind == BEGUN:
                worker.has_begun = True
            else:
                worker.deadline = self._deadline()  # of the next part
                yield worker, kind, content
        now = time.monotonic()
        for worker in [w for w in self._workers if w.item is not None and now > w.deadline]:
            worker.end()
            yield worker, DIED, f"it took more than {self._seconds_per_item:g} s"

    def _deadline(self) -> float:
        return time.monotonic() + (self._seconds_per_item or math.inf)

    def _remove(self, worker: Worker, how: str) -> None:
        """Forget a worker that is dead.

        Raises:
            UserError: several died one after another before they were ready.
        """
        self._workers.remove(worker)
        self._num_failed_starts += not worker.is_ready
        check_starts(self._num_failed_starts, how)

    def _end(self, workers: list[Worker]) -> None:
        for worker in workers:
            worker.end()
        self._workers = [worker for worker in self._workers if worker not in workers]


def check_starts(num_failed: int, how: str) -> None:
    """See that a worker may be started again.

    Args:
        num_failed: workers that died one after another before they were ready.
        how: the last one died.

    Raises:
        UserError: too many.
    """
    if num_failed >= _FAILED_STARTS:
        raise UserError(f"{num_failed} worker processes ended while they started ({how})")


def _work(connection: Connection, place: int) -> None:
    """Do what is sent, one message after the other, until the pool's process ends."""
    global _place, _connection
    _place, _connection = place, connection
    die_with_parent()
    ignore_stop_signals()  # the pool's process decides what they mean
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    function: Callable[[Item], Any] | None = None
    answer: tuple[int, Any]
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            content = pickle.loads(message)
            if not callable(content):
                connection.send((BEGUN, None))
                answer = (DONE, function(content))  # type: ignore[misc]
                if isinstance(answer[1], Iterator):
                    for part in answer[1]:
                        connection.send((PART, part))
                    answer = (ENDED, None)
            else:
                function, answer = content(), (READY, None)
        except UserError as error:
            answer = (REFUSED, str(error))
        except Exception:  # noqa: BLE001 - raised again in the pool's process
            answer = (BROKEN, traceback.format_exc())
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):  # nobody is there to hear it
            return
