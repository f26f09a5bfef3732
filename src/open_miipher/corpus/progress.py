"""How far a corpus run is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import AbstractContextManager

from tqdm import tqdm

LINE_EVERY = 30.0  # seconds


class Progress(AbstractContextManager["Progress"]):
    """Counts items and hours of audio of one rank.

    Args:
        num_items: to do.
        seconds: of audio that they hold.
        shown: whether to say anything.
        whose: what the counts are of, if not of the whole run.
        unit: what the items are.
    """

    def __init__(
        self, num_items: int, seconds: float, shown: bool, whose: str = "", unit: str = "files"
    ) -> None:
        self._num_items, self._seconds, self._shown, self._unit = num_items, seconds, shown, unit
        self._whose = f"{whose}: " if whose else ""
        self._items_done, self._items_said, self._seconds_done = 0, 0, 0.0
        self._began = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=round(seconds / 3600, 3),
            unit="h",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )

    def advance(self, seconds: float) -> None:
        """Count one item of `seconds` of audio."""
        self._items_done += 1
        self._seconds_done += seconds
        self._bar.update(seconds / 3600)
        self._bar.set_postfix_str(f"{self._whose}{self._items_done}/{self._num_items} {self._unit}")
        if time.monotonic() - self._last_line >= LINE_EVERY:
            self._line()

    def say(self, text: str) -> None:
        """Say a line, shown or not."""
        tqdm.write(text, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._items_said < self._items_done:
            self._line()

    def _line(self) -> None:
        if not (self._shown and self._bar.disable):
            return
        self._last_line = time.monotonic()
        self._items_said = self._items_done
        speed = self._seconds_done / max(1e-9, self._last_line - self._began)
        print(
            f"{self._whose}{self._items_done} of {self._num_items} {self._unit}, "
            f"{self._seconds_done / 3600:.2f} of {self._seconds / 3600:.2f} h, "
            f"{speed:.1f} times as fast as real time",
            flush=True,
        )
