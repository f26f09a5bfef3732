"""A polite end: the signal sets a flag, the loop looks at it at a step boundary."""

import signal
from types import FrameType


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGUSR2 arrived.

    A second SIGINT (Ctrl-C twice) ends the process at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
