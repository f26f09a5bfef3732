"""Processes that end with the one that started them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

# The child asks for its parent's death when that has happened.
PROGRAM = """
import multiprocessing, os, sys, time
sys.path.insert(0, {src!r})
from open_miipher.distributed.process import die_with_parent

def late(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    die_with_parent(parent)
    time.sleep(60)

if __name__ == "__main__":
    child = multiprocessing.get_context({how!r}).Process(target=late, args=(os.getpid(),))
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's end")
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_parent_that_ended_before_it_was_asked_about_is_noticed(tmp_path, how):
    """As a loader's worker that was still importing when its program was killed."""
    script = tmp_path / "program.py"
    src = str(Path(__file__).resolve().parents[2] / "src")
    script.write_text(PROGRAM.format(src=src, how=how))
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    child = int(program.stdout.readline())
    time.sleep(0 if how == "fork" else 1)  # a spawned one has to have read what it is to do
    program.kill()
    program.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)
