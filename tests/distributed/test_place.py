"""What a rank of torchrun does that failed and is started again."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
PROGRAM = """
import sys
sys.path.insert(0, {src!r})
from open_miipher.base.errors import UserError
from open_miipher.distributed import run_as_rank

def main():
    print("at work", flush=True)
    raise UserError("no such folder", may_pass={may_pass})

run_as_rank(main)
"""


@pytest.mark.parametrize("may_pass", [False, True])
def test_wrong_use_is_tried_once_and_said_once(may_pass, tmp_path, monkeypatch):
    """torchrun started it three times more, and each said the same."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "a/b", "TORCHELASTIC_MAX_RESTARTS": "3"}
    environment |= {"TMPDIR": str(tmp_path), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    runs = []
    for attempt in ("0", "1", "2", "0"):  # and another run of the same launcher
        command = [sys.executable, "-c", PROGRAM.format(src=str(SRC), may_pass=may_pass)]
        given = {**environment, "TORCHELASTIC_RESTART_COUNT": attempt}
        runs.append(subprocess.run(command, env=given, capture_output=True, text=True, check=False))
    assert [run.returncode for run in runs] == [2] * 4
    tried = [run.stdout + run.stderr for run in runs]
    whole = "at work\nerror: no such folder\n"
    assert tried == ([whole] * 4 if may_pass else [whole, "", "", whole])
