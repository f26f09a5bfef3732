"""What the tests of many processes share."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from open_miipher.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that waits for a condition, or fails."""

    def wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def end_of() -> Callable[[Path], tuple[list[dict], dict[str, str]]]:
    """Return a function that gives a run's losses and the hashes of its final weights."""

    def end(output_dir: Path) -> tuple[list[dict], dict[str, str]]:
        lines = (output_dir / "metrics.jsonl").read_text().splitlines()
        rows = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        files = json.loads((Checkpoint.open(output_dir).path / "files.json").read_text())
        weights = {name: entry["sha256"] for name, entry in files.items() if "safetensors" in name}
        return rows, weights

    return end
