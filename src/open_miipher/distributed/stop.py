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


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGUSR2 arrived.

    A second SIGINT (Ctrl-C twice) ends the process at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


class _Stopped(BaseException):
    """Goes up through what is broken off."""


def unless_stopped(action: Callable[[], T]) -> T | None:
    """Do something long that a program which is to end can do without.

    A signal breaks it off, so that it cleans up, and then does what it does in this program. After
    one that a `StopSignal` remembers, nothing is begun. In other threads than the main one, which
    alone gets signals, the action is just done.

    Returns:
        What the action returns; None if it was broken off or not begun.
    """
    if threading.current_thread() is not threading.main_thread():
        return action()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    owners = [getattr(handler, "__self__", None) for handler in before.values()]
    if any(isinstance(owner, StopSignal) and owner.received for owner in owners):
        return None
    arrived: list[int] = []
    is_under_way = True

    def break_off(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if is_under_way and len(arrived) == 1:  # nothing breaks off the cleaning up
            raise _Stopped

    replaced = {n: old for n, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in replaced:
        signal.signal(number, break_off)
    try:
        result = action()
        is_under_way = False
    except _Stopped:
        return None
    finally:
        is_under_way = False
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)
    return result


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
