"""`metrics.jsonl`: one JSON object for each logged step and split, none of them twice."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from open_miipher.base.atomic import named_if_full, remove_leftovers, write_lines
from open_miipher.base.rows import read_rows


class MetricsLog:
    """The run's numbers, one JSON object per line, in full precision.

    Args:
        path: the file. Lines of steps after `step` (a killed run wrote them after its last
            checkpoint) and an incomplete last line are removed.
        step: the step that this run continues from.
    """

    def __init__(self, path: Path, step: int) -> None:
        remove_leftovers([path])
        write_lines(path, [json.dumps(row) for row in read_rows(path) if row["step"] <= step])
        self._path = path
        self._file = open(path, "a")  # noqa: SIM115 - open for the whole run

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append a line and flush it; values that are not finite become null."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        with named_if_full(self._path):
            self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
            self._file.flush()
