"""`metrics.jsonl`: one object a logged step, each step once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """The run's numbers, one JSON object a line, in full precision.

    Args:
        path: the file; lines of steps after `step` (a killed run's, past its checkpoint) and a
            torn last line are cut off.
        step: the step that this run goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self._file = open(path, "a")  # noqa: SIM115 - open for the whole run

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add a line and hand it to the system at once; what is not finite becomes null."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **finite}) + "\n")
        self._file.flush()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
