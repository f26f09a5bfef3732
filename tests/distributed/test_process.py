"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from open_miipher.distributed import left_on_stop_signals

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


@pytest.fixture
def remembered():
    """Return the numbers of the stop signals that came, in order."""
    found: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda n, _: found.append(n)) for number in numbers]
    yield found
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_leaves_the_block_after_its_clean_up_and_then_does_its_work(remembered):
    steps = []
    with left_on_stop_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
            steps.append("went on")
        finally:
            signal.raise_signal(signal.SIGINT)  # while it cleans up: it must not break off
            steps.append(list(remembered))
    assert steps == [[]]
    assert remembered == [signal.SIGTERM, signal.SIGINT]
    signal.raise_signal(signal.SIGTERM)
    assert remembered == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]


def test_without_a_signal_the_block_returns_and_raises_as_ever(remembered):
    def value():
        with left_on_stop_signals():
            return 5

    assert value() == 5
    with pytest.raises(KeyError), left_on_stop_signals():
        raise KeyError
    assert remembered == []


def test_an_ignored_signal_stays_ignored(remembered):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    steps = []
    with left_on_stop_signals():
        signal.raise_signal(signal.SIGTERM)
        steps.append("went on")
    assert steps == ["went on"]


def test_another_thread_gets_no_signals(remembered):
    steps = []

    def work():
        with left_on_stop_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("went on")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == ["went on"]
    assert remembered == [signal.SIGTERM]
