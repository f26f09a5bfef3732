"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, a log file always."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

_NAMED = 10  # failures of one report that are told in full


class Console:
    """Speaks for rank 0; silent on the others.

    Args:
        log_file: gets every line; None: silent.
    """

    def __init__(self, log_file: Path | None) -> None:
        self._log: TextIO | None = None if log_file is None else open(log_file, "a")  # noqa: SIM115
        self._bar: tqdm | None = None

    def start(self, step: int, max_steps: int) -> None:
        """Begin the bar, where a person watches."""
        if self._log is not None and sys.stderr.isatty():
            self._bar = tqdm(initial=step, total=max_steps, unit="step", dynamic_ncols=True)

    def line(self, text: str) -> None:
        """Say one line."""
        if self._log is None:
            return
        self._log.write(text + "\n")
        self._log.flush()
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def metrics(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Say a line of numbers and move the bar."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.line(f"step {step}  {split}  {numbers}")
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def failures(self, step: int, by_rank: Sequence[Sequence[str]]) -> None:
        """Name what went wrong in making samples since it was last told; nothing if nothing did."""
        failures = [failure for own in by_rank for failure in own]
        more = f"; … and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        if failures:
            self.line(
                f"step {step}  warning: {len(failures)} failures in making samples: "
                f"{'; '.join(failures[:_NAMED])}{more}"
            )

    def finish(self, step: int, unfinished: bool) -> None:
        """End the bar and say how the run ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        why = "stopped by a signal; resume with trainer.ckpt_dir" if unfinished else "done"
        self.line(f"step {step}: {why}")
