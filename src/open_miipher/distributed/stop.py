"""A polite end: the signal sets a flag, the loop looks at it at a step boundary."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

from open_miipher.distributed.process import STOP_SIGNALS

T = TypeVar("T")

REQUEUE = "REQUEUE"


class _Stopped(BaseException):
    """Goes up through what is broken off."""


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGUSR2 arrived.

    A second SIGINT (Ctrl-C twice) ends the process at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._breaks_off = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self._breaks_off:
            self._breaks_off = False  # nothing breaks off the cleaning up
            raise _Stopped

    def unless_received(self, action: Callable[[], T]) -> T | None:
        """See `unless_stopped`; on the main thread."""
        if self.received:
            return None
        try:
            self._breaks_off = True
            try:
                return action()
            finally:
                self._breaks_off = False
        except _Stopped:
            return None


def unless_stopped(action: Callable[[], T]) -> T | None:
    """Do something long that a program which is to end can do without.

    A signal that a `StopSignal` remembers breaks it off, so that it cleans up; after one, nothing
    is begun. Any other signal does to it what it does in this program. In other threads than the
    main one, which alone gets signals, the action is just done.

    Returns:
        What the action returns; None if it was broken off or not begun.
    """
    stop = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(stop, StopSignal) and threading.current_thread() is threading.main_thread():
        return stop.unless_received(action)
    return action()


def mark_requeue(directory: Path, wanted: bool) -> None:
    """Leave, or remove, the empty file that tells a job script to start the same command again.

    An exit status cannot tell: torchrun gives 1 also where every worker saved and ended well.

    Args:
        directory: where the run holds its lock.
        wanted: True once a signal has ended the run early and everything is saved; False when a
            run starts.
    """
    file = directory / REQUEUE
    if wanted:
        file.touch()
    else:
        file.unlink(missing_ok=True)
