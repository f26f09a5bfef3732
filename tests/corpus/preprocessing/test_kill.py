"""Killed at random instants and completed: the shards of an unbroken run."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from open_miipher.corpus.preprocessing import Preprocess
from open_miipher.corpus.run import run

from .conftest import files_of, make_directory, make_tar

FORK = multiprocessing.get_context("fork")  # a fresh interpreter imports for seconds


def kill_at_random(task: Preprocess, folder: Path, alone, seconds: float) -> bool:
    """Run in a process of its own, killed after so long; whether it was still at work."""
    process = FORK.Process(target=lambda: os._exit(run(task, folder, alone).exit_code))
    process.start()
    time.sleep(seconds)
    killed = process.is_alive()
    process.kill()
    process.join()
    return killed


@pytest.mark.dist
@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path, tasks, alone):
    for number in range(8):
        make_tar(tmp_path / f"raw/{number}.tar", 20, seed=number)
    make_directory(tmp_path / "speech", 20)
    given = [
        f"data.train.urls=[{tmp_path / 'raw'}]", f"data.train.dir_list=[{tmp_path / 'speech'}]",
        "preprocess.num_writers=2", "preprocess.crops=all",
    ]  # fmt: skip
    folder, task = next(iter(tasks(*given, "preprocess.job_id=broken").items()))
    rng = np.random.default_rng(0)
    num_killed, num_made = 0, []
    for _ in range(10):
        num_killed += kill_at_random(task, folder, alone, rng.uniform(0.05, 0.5))
        num_made.append(len(files_of(folder)))
    assert num_killed >= 5
    assert any(num_made)
    summary = run(task, folder, alone)
    assert summary.exit_code == 0
    whole_folder, whole = next(iter(tasks(*given, "preprocess.job_id=whole").items()))
    run(whole, whole_folder, alone)
    assert files_of(folder) == files_of(whole_folder)
    assert (folder / "summary.json").read_text() == (whole_folder / "summary.json").read_text()
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.dist
def test_workers_end_with_their_rank(tmp_path, tasks, alone, monkeypatch, wait_until):
    folder, task = next(iter(tasks(f"data.train.urls=[{make_tar(tmp_path / 'a.tar')}]").items()))
    told = tmp_path / "pid"

    def wait_for_ever(item):
        told.write_text(str(os.getpid()))
        signal.pause()

    monkeypatch.setattr(task, "make", wait_for_ever)
    process = FORK.Process(target=lambda: run(task, folder, alone))
    process.start()
    wait_until(lambda: told.exists() and told.read_text() != "", 30)
    worker = Path(f"/proc/{told.read_text()}")
    assert worker.exists()
    process.kill()
    process.join()
    wait_until(lambda: not worker.exists() or "State:\tZ" in (worker / "status").read_text(), 10)
