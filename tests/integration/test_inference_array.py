"""`src/inference.py --num-shards N --shard-id K`: tasks of an array, started at once, killed."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from warm import Run

from open_miipher.base.errors import exit_on_user_error
from open_miipher.commands import restore
from open_miipher.distributed import says

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / f"noisy/{number % 3}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(12000 + 3000 * number), 24000)
    return tmp_path / "noisy"


def outputs(out: Path) -> list[str]:
    found = (p for p in out.rglob("*.wav") if not p.name.startswith("."))
    return sorted(p.relative_to(out).as_posix() for p in found)


@pytest.mark.dist
@pytest.mark.integration
def test_killed_tasks_of_an_array_are_completed_by_running_them_again(
    chain, noisy, tmp_path, start_script
) -> None:
    out = tmp_path / "out"

    def start(shard: int) -> Run:
        words = ["--ckpt-dir", chain, "--device", "cpu", "--input-audio-dir", noisy]
        words += ["--output-dir", out, "--chunk-seconds", "0.5", "--overlap-seconds", "0.1"]
        return start_script("src/inference.py", *words, "--num-shards", 3, "--shard-id", shard)

    tasks = [start(shard) for shard in range(3)]
    deadline = time.monotonic() + 120
    while len(outputs(out)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tasks[0].send(signal.SIGKILL)
    tasks[1].send(signal.SIGTERM)
    killed, ended, done = (task.end(120) for task in tasks)
    assert killed.returncode == -signal.SIGKILL
    assert done.returncode == 0, done.stderr
    requeue = out / ".ledger/shard-00001-of-00003/REQUEUE"
    assert requeue.exists() == (ended.returncode == 4)

    tasks = [start(shard) for shard in (0, 1)]
    assert [task.end(120).returncode for task in tasks] == [0, 0]
    assert not requeue.exists()
    inputs = sorted(p.relative_to(noisy).as_posix() for p in noisy.rglob("*.wav"))
    assert outputs(out) == inputs
    manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(row["input"], row["error"]) for row in manifest] == [(n, None) for n in inputs]
    assert [path for path in out.rglob("*.tmp")] == []


@pytest.mark.parametrize(
    ("arguments", "says_so"),
    [
        (["--num-shards", "4"], "belong together"),
        (["--shard-id", "0"], "belong together"),
        (["--num-shards", "4", "--shard-id", "4"], "shard 4 of 4"),
        (["--num-shards", "0", "--shard-id", "0"], "at least 1"),
    ],
)
def test_a_shard_that_does_not_exist_is_one_sentence(
    chain, noisy, tmp_path, monkeypatch, capsys, arguments, says_so
) -> None:
    words = ["--ckpt-dir", chain, "--input-audio-dir", noisy, "--output-dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, words), *arguments])
    assert exit_on_user_error(restore.main, says)() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says_so in error
    assert not (tmp_path / "out").exists()


def test_the_last_line_names_the_command_that_tries_failures_again(
    chain, noisy, tmp_path, monkeypatch, capsys
) -> None:
    (noisy / "bad.wav").write_text("not audio")
    words = ["--ckpt-dir", chain, "--input-audio-dir", noisy, "--output-dir", tmp_path / "the out"]
    words += ["--device", "cpu", "--num-shards", "1", "--shard-id", "0"]
    monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, words)])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    codes = [exit_on_user_error(restore.main, says)() for _ in range(2)]
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert codes == [3, 3]
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"python src/status.py '{tmp_path / 'the out'}' --retry-failed" in last
