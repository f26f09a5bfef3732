"""A polite end: the signal sets a flag, the loop looks at it at a step boundary."""

import signal
from pathlib import Path
from types import FrameType

from open_miipher.distributed.process import STOP_SIGNALS

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
