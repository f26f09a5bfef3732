"""Killed at random instants and completed: the shards of an unbroken run."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from open_miipher.corpus.pool import Pool
from open_miipher.corpus.preprocessing.task import Preprocess
from open_miipher.corpus.run import run

from .conftest import files_of, make_directory, make_tar

sys.path.insert(0, str(Path(__file__).parents[1]))
from working import Doing

FORK = multiprocessing.get_context("fork")  # a fresh interpreter imports for seconds


@pytest.fixture
def warm_workers() -> None:
    """A process forked from this one cannot have workers of the server's, but fresh ones."""


def kill_at_random(task: Preprocess, folder: Path, alone, rng: np.random.Generator) -> bool:
    """Run in a process of its own, killed soon after it began a shard; whether it was at work."""
    process = FORK.Process(target=lambda: os._exit(run(task, folder, alone).exit_code))
    process.start()
    before = set(folder.iterdir()) if folder.exists() else set()
    while process.is_alive() and not (folder.exists() and set(folder.glob(".*.tmp")) - before):
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.3))
    killed = process.is_alive()
    process.kill()
    process.join()
    return killed


@pytest.mark.dist
@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path, tasks, alone):
    for number in range(16):
        make_tar(tmp_path / f"raw/{number}.tar", 20, seed=number)
    make_directory(tmp_path / "speech", 20)
    given = [
        f"data.train.urls=[{tmp_path / 'raw'}]", f"data.train.dir_list=[{tmp_path / 'speech'}]",
        "preprocess.num_writers=2", "preprocess.crops=all",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    num_killed, num_made = 0, []
    for _ in range(10):
        with Pool(2) as pool:  # whose workers are started in the process that is killed
            folder, task = next(iter(tasks(*given, "preprocess.job_id=broken", pool=pool).items()))
            num_killed += kill_at_random(task, folder, alone, rng)
        num_made.append(len(files_of(folder)))
    assert num_killed >= 5
    assert any(num_made)
    folder, task = next(iter(tasks(*given, "preprocess.job_id=broken").items()))
    summary = run(task, folder, alone)
    assert summary.exit_code == 0
    whole_folder, whole = next(iter(tasks(*given, "preprocess.job_id=whole").items()))
    run(whole, whole_folder, alone)
    assert files_of(folder) == files_of(whole_folder)
    assert (folder / "summary.json").read_text() == (whole_folder / "summary.json").read_text()
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.dist
def test_workers_end_with_their_rank(tmp_path, tasks, alone, wait_until):
    given = f"data.train.urls=[{make_tar(tmp_path / 'wait.tar')}]"
    folder, task = next(iter(tasks(given, pool=Pool(1)).items()))
    task.build = Doing(tmp_path)
    told = tmp_path / "log"
    process = FORK.Process(target=lambda: run(task, folder, alone))
    process.start()
    wait_until(lambda: told.exists() and "wait" in told.read_text(), 60)
    worker = Path(f"/proc/{told.read_text().split()[-1]}")
    assert worker.exists()
    process.kill()
    process.join()
    wait_until(lambda: not worker.exists() or "State:\tZ" in (worker / "status").read_text(), 10)
