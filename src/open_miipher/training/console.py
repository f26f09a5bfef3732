"""The output of a run: a progress bar on a terminal, else plain lines; always a log file."""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from open_miipher.base.amounts import counted
from open_miipher.base.atomic import named_if_full

_LISTED = 10  # failures that one warning lists; the others are only counted


class Console:
    """Prints the lines of rank 0; the other ranks print nothing.

    Args:
        log_file: receives every line; None: print nothing.
    """

    def __init__(self, log_file: Path | None) -> None:
        self._log: TextIO | None = None if log_file is None else open(log_file, "a")  # noqa: SIM115
        self._bar: tqdm | None = None
        self._lock = threading.Lock()

    def start(self, step: int, max_steps: int) -> None:
        """Show the progress bar if stderr is a terminal."""
        if self._log is not None and sys.stderr.isatty():
            self._bar = tqdm(initial=step, total=max_steps, unit="step", dynamic_ncols=True)

    def line(self, text: str) -> None:
        """Print one line and write it to the log file; from any thread."""
        if self._log is None:
            return
        with self._lock:
            with named_if_full(Path(self._log.name)):
                self._log.write(text + "\n")
                self._log.flush()
            if self._bar is None:
                print(text, flush=True)
            else:
                self._bar.write(text, file=sys.stderr)

    def metrics(self, step: int, split: str, values: Mapping[str, float], more: str = "") -> None:
        """Print a line of numbers, with a text behind them, and move the bar."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.line(f"step {step}  {split}  {numbers}{more}")
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def failures(self, step: int, by_rank: Sequence[Sequence[str]]) -> None:
        """Warn of samples that could not be made since the last call; print nothing without any."""
        failures = [failure for of_rank in by_rank for failure in of_rank]
        more = f"; … and {len(failures) - _LISTED} more" if len(failures) > _LISTED else ""
        if failures:
            self.line(
                f"step {step}  warning: {counted(len(failures), 'failures')} in making samples: "
                f"{'; '.join(failures[:_LISTED])}{more}"
            )

    def finish(self, text: str) -> None:
        """End the bar and print how the run ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.line(text)
