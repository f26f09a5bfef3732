"""`metrics.jsonl`: one object a logged step, each step once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from open_miipher.base.atomic import write_lines


class MetricsLog:
    """The run's numbers, one JSON object a line, in full precision.

    Args:
        path: the file; lines of steps after `step` (a killed run's, past its checkpoint) and a
            torn last line are cut off.
        step: the step that this run goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        write_lines(path, kept)
        self._file = open(path, "a")  # noqa: SIM115 - open for the whole run

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add a line and hand it to the system at once; what is not finite becomes null."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self._file.flush()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text().split("\n")[:-1]  # what follows the last end of line is torn
