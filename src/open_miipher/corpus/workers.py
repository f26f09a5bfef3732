"""Items worked on in processes of their own, several at a time."""

import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

from open_miipher.base.errors import UserError
from open_miipher.corpus.run import Item, Share
from open_miipher.distributed import die_with_parent

R = TypeVar("R")

_FORK = get_context("fork")  # what was built for the work needs no copying
_LOOK_EVERY = 0.2  # s, at whether a signal came
_GRACE = 1.0  # s: a batch system's signal to all processes may end a worker before it is heard here


class _Worker(Generic[R]):
    """One process, which does an item at a time."""

    def __init__(self, function: Callable[[Item], R]) -> None:
        self.connection, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=_work, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.item: Item | None = None

    def start(self, item: Item) -> None:
        self.item = item
        self.connection.send(item)

    def result(self) -> R:
        """Take the result, once it is there.

        Raises:
            EOFError: the process ended.
            UserError: that of the function.
        """
        problem, result = self.connection.recv()
        if problem is not None:
            raise UserError(problem)
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def map_in_processes(
    function: Callable[[Item], R], items: Share, num_processes: int
) -> Iterator[R]:
    """Yield `function` of every item as it comes to its end, in any order.

    When a signal ends the items, what is under way is given up at once.

    Args:
        function: run in forked processes; its result is picklable.
        items: taken as processes are free.
        num_processes: at least 1.

    Raises:
        UserError: as the function, also for its OSError; or a process ended before its work did.
    """
    workers = [_Worker(function) for _ in range(num_processes)]
    try:
        while True:
            for worker in workers:
                if worker.item is None and (item := next(items, None)) is not None:
                    worker.start(item)
            busy = {w.connection: w for w in workers if w.item is not None}
            if not busy:
                return
            for connection in wait(list(busy), _LOOK_EVERY):
                worker = busy[connection]  # type: ignore[index]
                try:
                    result = worker.result()
                except EOFError:
                    if _stopped_soon(items):
                        return
                    raise _ended(worker) from None
                worker.item = None
                yield result
            if items.stopped:
                return
    finally:
        for worker in workers:
            worker.end()


def _work(function: Callable[[Item], Any], connection: Connection) -> None:
    """Do what is sent, one item after the other, until the parent ends this process.

    Any other error is a fault of ours: multiprocessing prints it and ends the process.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR2):  # the parent decides what they mean
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        item = connection.recv()
        answer: tuple[str | None, Any]
        try:
            answer = (None, function(item))
        except UserError as error:
            answer = (str(error), None)
        except OSError as error:
            answer = (f"{error.filename or 'the output directory'}: {error.strerror}", None)
        connection.send(answer)


def _stopped_soon(items: Share) -> bool:
    deadline = time.monotonic() + _GRACE
    while not items.stopped and time.monotonic() < deadline:
        time.sleep(0.01)
    return items.stopped


def _ended(worker: _Worker[Any]) -> UserError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"signal {-code}; is memory short?" if code < 0 else f"exit status {code}"
    doing = worker.item.id if worker.item is not None else "nothing"
    return UserError(f"a worker process ended while it made {doing} ({how})")
