"""Synthesis that is killed, as a whole and in part: every index once, no failure forgotten."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from stand_in import records

from open_miipher.base.rows import read_rows

pytestmark = [pytest.mark.dist, pytest.mark.slow]
DRIVER = "tests/corpus/synthesising/driver.py"
NUM_TEXTS = 400


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    bad = {17: "silent", 101: "raises", 202: "short and much too short", 303: None}
    rows = [{"text": f"number {n} {'word ' * (n % 5)}"} for n in range(NUM_TEXTS)]
    rows = [{"text": bad.get(n, row["text"])} for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(out: Path) -> int:
    return sum(1 for path in (out / ".ledger").glob("rank-*.jsonl") for _ in read_rows(path))


def check(out: Path) -> None:
    """See that every index is there once, in the parts and in the whole, and every failure."""
    wanted = {str(n) for n in range(NUM_TEXTS)} - {"17", "101", "202", "303"}
    rows = records(out / "audio_tokens.csv")
    assert Counter(row["index"] for row in rows) == Counter(wanted)
    parts = [row for part in out.glob("audio_tokens_*.csv") for row in records(part)]
    assert Counter(row["index"] for row in parts) == Counter(wanted)
    assert all(
        len(row["tokens"].split()) == 2 * -(-float(row["seconds"]) * 24000 // 320) for row in rows
    )
    assert all((out / row["audio"]).stat().st_size > 100 for row in rows)
    assert {row["index"] for row in records(out / "failed.csv")} == {"17", "101", "202", "303"}
    assert len(json.loads((out / "failed_indices_all.json").read_text())) == 4
    assert not list(out.rglob("*.tmp"))


def test_ten_kills_and_another_number_of_workers_lose_and_repeat_nothing(tmp_path, texts, torchrun):
    out, rng = tmp_path / "out", random.Random(0)
    words = [
        str(tmp_path), "0.25", f"dataset.name={texts}", f"processing.save_dir={out}",
        "tts.batch_size=4", "processing.save_batch_size=6", "processing.max_retries=1",
    ]  # fmt: skip
    num_killed = 0
    for attempt in range(10):
        before, run = rows_of(out), torchrun(DRIVER, *words, ranks=1 + attempt % 2)
        deadline = time.monotonic() + 120
        while rows_of(out) == before and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.6))
        num_killed += run.poll() is None
        for part in out.glob("audio_tokens_*.csv"):  # at any time, every table is whole
            assert all(row["attempts"] for row in records(part))
        run.kill()
        run.wait()
        time.sleep(0.3)  # the ranks and their workers end by themselves
    assert num_killed == 10
    words[1] = "0"
    last = torchrun(DRIVER, *words, "processing.num_procs_per_device=3", ranks=1)
    text, _ = last.communicate(timeout=200)
    assert last.returncode == 1, text  # torchrun's word for 3: four have failed
    assert "4 failures" in text
    check(out)


def test_a_worker_that_is_killed_alone_is_noticed_and_others_do_its_work(tmp_path, texts, torchrun):
    out = tmp_path / "out"
    words = [
        str(tmp_path), "0.1", f"dataset.name={texts}", f"processing.save_dir={out}",
        "tts.batch_size=4", "processing.max_failures=4", "processing.num_procs_per_device=2",
    ]  # fmt: skip
    run = torchrun(DRIVER, *words)
    deadline = time.monotonic() + 120
    log = tmp_path / "log"
    while not log.exists() or len(log.read_text().splitlines()) < 10:
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.02)
    killed = log.read_text().split()[0]
    os.kill(int(killed), signal.SIGKILL)
    text, _ = run.communicate(timeout=200)
    assert run.returncode == 0, text
    assert "a worker was lost" in text
    check(out)
    pids = {line.split()[0] for line in log.read_text().splitlines()}
    assert pids - {killed}  # the one in its place may come when all is done
