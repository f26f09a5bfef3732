"""How far a corpus run is: a bar on a terminal, plain lines elsewhere; both on standard error."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tqdm import tqdm

from open_miipher.base.amounts import duration

LINE_EVERY = 30.0  # seconds
_BAR_EVERY = 2.0


class Progress(AbstractContextManager["Progress"]):
    """Counts items and audio of one rank, and says so from time to time, also within a long item.

    Args:
        num_items: to do.
        seconds: of audio that they hold.
        shown: whether to say anything.
        whose: what the counts are of, if not of the whole run.
        unit: what the items are.
        under_way: gives the seconds of audio that are done of items that are not done.
    """

    def __init__(
        self,
        num_items: int,
        seconds: float,
        shown: bool,
        whose: str = "",
        unit: str = "files",
        under_way: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._num_items, self._seconds, self._shown, self._unit = num_items, seconds, shown, unit
        self._whose = f"{whose}: " if whose else ""
        self._items_done, self._items_said, self._seconds_done = 0, 0, 0.0
        self._under_way = under_way
        self._began = time.monotonic()
        self._bar = tqdm(
            total=round(seconds / 3600, 3),
            unit="h",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        if shown:
            self._clock.start()

    def advance(self, seconds: float) -> None:
        """Count one item of `seconds` of audio."""
        self._items_done += 1
        self._seconds_done += seconds

    def say(self, text: str) -> None:
        """Say a line, shown or not."""
        tqdm.write(text, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._shown:
            self._clock.join()
            if self._items_said < self._items_done:
                self._show()
        self._bar.close()

    def _tick(self) -> None:
        while not self._ended.wait(LINE_EVERY if self._bar.disable else _BAR_EVERY):
            self._show()

    def _show(self) -> None:
        self._items_said = self._items_done
        seconds = min(self._seconds, self._seconds_done + self._under_way())
        items = f"{self._whose}{self._items_done} of {self._num_items} {self._unit}"
        if not self._bar.disable:
            self._bar.n = round(seconds / 3600, 3)
            self._bar.set_postfix_str(items)  # draws it
            return
        line = f"{items}, {duration(seconds)} of {duration(self._seconds)}"
        if seconds:
            speed = seconds / max(1e-9, time.monotonic() - self._began)
            line = f"{line}, {speed:.1f} times as fast as real time"
        print(line, file=sys.stderr, flush=True)
