"""`src/inference.py --num-workers N`: the same files, and nothing left of a run that is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


def named_shared_memory(pid: int) -> list[str]:
    """What would be left in /dev/shm after a kill."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [line for line in lines if "/dev/shm/" in line and not line.endswith("(deleted)")]


def sounds(out: Path) -> dict[str, np.ndarray]:
    return {path.name: soundfile.read(path, dtype="int16")[0] for path in out.glob("[!.]*.wav")}


@contextlib.contextmanager
def started(words: list[str], **options: object) -> Iterator[subprocess.Popen]:
    """Start a command; what a test that failed leaves of it is killed."""
    with subprocess.Popen(words, **options) as run:
        try:
            yield run
        finally:
            run.kill()


@pytest.mark.dist
def test_nobody_outlives_a_run_that_is_killed_and_the_next_one_goes_on(
    chain, tmp_path, wait_until
) -> None:
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    noisy.mkdir()
    for number in range(60):
        waveform = 0.1 * RNG.standard_normal(round(RNG.uniform(8000, 40000)))
        soundfile.write(noisy / f"{number:02d}.wav", waveform, 16000)
    with started(command(chain, noisy, out, "--num-workers", 2)) as run:
        wait_until(lambda: len(list(out.glob("[!.]*.wav"))) > 3 or run.poll() is not None)
        workers = children(run.pid)
        assert len(workers) >= 2
        assert not any(map(named_shared_memory, (run.pid, *workers)))
        run.kill()
    # One that is still importing sees its pool's end afterwards: seconds of a core, minutes of a
    # share of one.
    wait_until(lambda: all(map(is_gone, workers)))
    num_done = len(list(out.glob("[!.]*.wav")))
    again = command(chain, noisy, out, "--num-workers", 2)
    subprocess.run(again, check=True, timeout=300)
    assert num_done < 60
    assert not list(out.glob(".*.tmp"))
    subprocess.run(command(chain, noisy, tmp_path / "plain"), check=True, timeout=300)
    made, plain = sounds(out), sounds(tmp_path / "plain")
    assert made.keys() == plain.keys()
    for name, sound in made.items():  # batches differ, and with them the last bit
        assert np.abs(sound.astype(int) - plain[name]).max() <= 1
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows] == 60 * [None]


def test_a_signal_lets_the_workers_finish_what_they_have_begun(chain, tmp_path, wait_until) -> None:
    noisy, out = tmp_path / "noisy", tmp_path / "out"
    noisy.mkdir()
    for number in range(300):
        soundfile.write(noisy / f"{number:03d}.wav", 0.1 * RNG.standard_normal(16000), 16000)
    words = command(chain, noisy, out, "--num-workers", 2)
    with started(words, start_new_session=True) as run:
        wait_until(lambda: len(list(out.glob("[!.]*.wav"))) > 3 or run.poll() is not None)
        os.killpg(run.pid, signal.SIGTERM)  # as a batch system does: to all processes
        assert run.wait(120) == 4
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == len(sounds(out)) < 300
    assert not list(out.glob(".*.tmp"))
    assert (out / ".ledger/REQUEUE").exists()
