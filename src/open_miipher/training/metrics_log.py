"""`metrics.jsonl`: one JSON object for each logged step and split, none of them twice."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from open_miipher.base.atomic import write_lines


class MetricsLog:
    """The run's numbers, one JSON object per line, in full precision.

    Args:
        path: the file. Lines of steps after `step` (a killed run wrote them after its last
            checkpoint) and an incomplete last line are removed.
        step: the step that this run continues from.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        write_lines(path, kept)
        self._file = open(path, "a")  # noqa: SIM115 - open for the whole run

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append a line and flush it; values that are not finite become null."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self._file.flush()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text().split("\n")[:-1]  # text after the last end of line is incomplete
