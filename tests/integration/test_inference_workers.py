"""`src/inference.py --num-workers N`: the same files, and nothing left of a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def command(chain: Path, noisy: Path, out: Path, *more: object) -> list[str]:
    words = [ROOT / "src/inference.py", noisy, out, "--ckpt-dir", chain, "--device", "cpu", *more]
    return [sys.executable, *map(str, words)]


def children(pid: int) -> list[int]:
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in told.split()]


def is_gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def sounds(out: Path) -> dict[str, np.ndarray]:
    return {path.name: soundfile.read(path, dtype="int16")[0] for path in out.glob("[!.]*.wav")}


def wait_until(is_so, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.dist
def test_nobody_outlives_a_run_that_is_killed_and_the_next_one_goes_on(chain, tmp_path) -> None:
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    noisy.mkdir()
    for number in range(60):
        waveform = 0.1 * RNG.standard_normal(round(RNG.uniform(8000, 40000)))
        soundfile.write(noisy / f"{number:02d}.wav", waveform, 16000)
    segments = set(os.listdir("/dev/shm"))
    with subprocess.Popen(command(chain, noisy, out, "--num-workers", 2)) as run:
        wait_until(lambda: len(list(out.glob("[!.]*.wav"))) > 3)
        workers = children(run.pid)
        assert len(workers) >= 2
        run.kill()
    wait_until(lambda: all(map(is_gone, workers)), 20)
    num_done = len(list(out.glob("[!.]*.wav")))
    again = command(chain, noisy, out, "--num-workers", 2)
    subprocess.run(again, check=True, timeout=300)
    assert num_done < 60
    assert not list(out.glob(".*.tmp"))
    assert set(os.listdir("/dev/shm")) <= segments
    subprocess.run(command(chain, noisy, tmp_path / "plain"), check=True, timeout=300)
    made, plain = sounds(out), sounds(tmp_path / "plain")
    assert made.keys() == plain.keys()
    for name, sound in made.items():  # batches differ, and with them the last bit
        assert np.abs(sound.astype(int) - plain[name]).max() <= 1
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows] == 60 * [None]


def test_a_signal_lets_the_workers_finish_what_they_have_begun(chain, tmp_path) -> None:
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    noisy.mkdir()
    for number in range(300):
        soundfile.write(noisy / f"{number:03d}.wav", 0.1 * RNG.standard_normal(16000), 16000)
    words = command(chain, noisy, out, "--num-workers", 2)
    with subprocess.Popen(words, start_new_session=True) as run:
        wait_until(lambda: len(list(out.glob("[!.]*.wav"))) > 3)
        os.killpg(run.pid, signal.SIGTERM)  # as a batch system does: to all processes
        assert run.wait(120) == 4
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == len(sounds(out)) < 300
    assert not list(out.glob(".*.tmp"))
    assert (out / ".ledger/REQUEUE").exists()
