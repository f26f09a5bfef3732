"""`src/status.py OUT`: what it says of runs and arrays, finished, stopped, killed and at work."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from open_miipher.audio.formats import FileFormat
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.rows import RowWriter
from open_miipher.commands import status
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.outcome import NO_FAILURES, MaxFailures
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.restoring import Restore
from open_miipher.corpus.run import run
from open_miipher.corpus.status import Made, measure, open_ledger, survey
from open_miipher.distributed import World
from open_miipher.restoration import RestoreOptions, Restorer, WriteError

ROOT = Path(__file__).resolve().parents[2]
ALONE = World(0, 1, torch.device("cpu"))
RNG = np.random.default_rng(0)


class SameAgain:
    """A model that gives its input back; 100 Hz frames at 8 kHz."""

    input_rate = output_rate = 8000
    input_hop = output_hop = 80
    needs_statistics, restores_level, is_light = False, True, False
    side_by_side = False
    fingerprint = "same-again"

    def restore(self, waveform: Tensor, *_: Tensor | None) -> Tensor:
        return waveform.clone()


def write(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * RNG.standard_normal(round(8000 * seconds)), 8000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(20):
        write(tmp_path / f"in/{number % 3}/{number}.wav")
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def restore(source: Path, out: Path):
    def restore(array_task: ArrayTask | None = None, allowed=NO_FAILURES, **options) -> int:
        restorer = Restorer(SameAgain(), RestoreOptions(chunk_seconds=1.0, overlap_seconds=0.2))
        task = Restore(restorer, Directory(source), out, FileFormat(**options))
        return run(task, out, ALONE, array_task=array_task, allowed=allowed).num_done

    return restore


@pytest.fixture
def command(out: Path, monkeypatch, capsys):
    """Run status.py on OUT; return its exit status and what it says."""

    def command(*arguments: object, output_dir: Path = out) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["status.py", str(output_dir), *map(str, arguments)])
        capsys.readouterr()
        code = exit_on_user_error(status.main)()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


def state_of(path: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")}


def test_a_finished_run(restore, out, command) -> None:
    restore()
    before = state_of(out)
    code, text = command("--verify")
    assert code == 0
    assert "20 of 20 done, 0 left, 0 failed" in text
    assert "1 finished" in text
    assert "all is as recorded" in text
    assert state_of(out) == before


def test_shards_that_finished_and_others_that_never_started(restore, source, command) -> None:
    (source / "bad.wav").write_text("no")
    restore(ArrayTask(4, 1))
    restore(ArrayTask(4, 3))
    code, text = command("--json")
    assert code == 0
    seen = json.loads(text)
    own = {index: len(ArrayTask(4, index).own(all_inputs(source))) for index in range(4)}
    assert seen["num_inputs"] == 21
    assert seen["num_left"] == own[0] + own[2]
    assert seen["num_done"] + seen["num_failed"] == own[1] + own[3]
    states = {task["name"]: task["state"] for task in seen["tasks"]}
    assert states == {f"shard {k} of 4": ["not started", "finished"][k % 2] for k in range(4)}
    assert seen["is_estimate"]
    assert seen["seconds_left"] == pytest.approx(0.5 * seen["num_left"])
    assert seen["seconds_done"] == pytest.approx(0.5 * seen["num_done"])
    restore()
    seen = json.loads(command("--json")[1])
    assert (seen["num_done"], seen["num_failed"], seen["num_left"]) == (20, 1, 0)
    assert [task["name"] for task in seen["tasks"]] == ["the run"]


def all_inputs(source: Path) -> list[str]:
    return [path.relative_to(source).as_posix() for path in source.rglob("*.wav")]


def test_a_run_that_was_killed_in_its_middle(restore, out, command) -> None:
    restore()
    rows = out / ".ledger/rank-00000.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:12]) + '{"run": 1, "id": "to')
    log = out / ".ledger/runs.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    seen = json.loads(command("--json")[1])
    assert (seen["num_done"], seen["num_left"]) == (12, 8)
    assert seen["seconds_left"] == pytest.approx(4.0)
    assert seen["tasks"][0]["state"] == "stopped"
    assert seen["tasks"][0]["how"] == "killed"
    assert "the run: stopped, killed, 8 files left" in command()[1]


def test_speed_is_what_was_made_while_somebody_worked() -> None:
    intervals = [(0.0, 100.0), (50.0, 120.0), (500.0, 540.0), (900.0, 990.0)]
    speed = measure(intervals, Made(10, 1250.0), (0.0, 1000.0))
    assert speed is not None
    assert (speed.seconds, speed.files, speed.real_time) == (250.0, 10 / 250, 5.0)
    recent = measure(intervals, Made(1, 180.0), (910.0, 1000.0))
    assert recent is not None
    assert (recent.seconds, recent.real_time) == (80.0, 2.25)
    assert measure(intervals, Made(), (2000.0, 3000.0)) is None


def test_failures_by_reason_and_once_more(restore, source, out, command) -> None:
    for number in range(3):
        (source / f"bad {number}.wav").write_text("no")
    for number in range(2):
        samples = np.zeros(900 + number, dtype=np.float32)
        samples[800 + number] = np.nan
        soundfile.write(source / f"nan{number}.wav", samples, 8000, subtype="FLOAT")
    restore()
    seen = json.loads(command("--json")[1])
    assert [(f["count"], f["reason"]) for f in seen["failures"]] == [
        (3, "cannot be opened as audio: Format not recognised."),
        (2, "holds NaN or Inf at frame N"),
    ]
    assert re.search(r"nan\d.wav holds NaN or Inf at frame 80\d", seen["failures"][1]["example"])
    assert f"python src/status.py {out} --retry-failed" in command()[1]
    write(source / "bad 0.wav")
    assert restore() == 1
    code, text = command("--retry-failed")
    assert code == 0
    assert "forgotten:   4;" in text
    seen = json.loads(command("--json")[1])
    assert (seen["num_done"], seen["num_failed"], seen["num_left"]) == (21, 0, 4)
    os.utime(source / "bad 1.wav", ns=(1, 1))
    rows = len((out / ".ledger/rank-00000.jsonl").read_text().splitlines())
    assert restore() == 0
    assert len((out / ".ledger/rank-00000.jsonl").read_text().splitlines()) == rows + 4
    assert json.loads(command("--json")[1])["num_failed"] == 4


def test_verify_finds_what_is_wrong_and_has_it_made_again(restore, source, out, command) -> None:
    (source / "bad.wav").write_text("no")
    soundfile.write(source / "silent.wav", np.zeros(4000), 8000)
    restore()
    (out / "0/0.wav").unlink()
    data = (out / "1/1.wav").read_bytes()
    (out / "1/1.wav").write_bytes(data[:-1000])
    (out / "2/2.wav").write_bytes(data[:44] + bytes(len(data) - 44))
    soundfile.write(out / "0/3.wav", np.zeros(4001), 8000)
    soundfile.write(out / "1/4.wav", np.zeros((4000, 2)), 16000)
    samples = np.full(4000, np.nan, dtype=np.float32)
    soundfile.write(out / "2/5.wav", samples, 8000, subtype="FLOAT")
    (out / "0/6.wav").write_bytes((out / "0/6.wav").read_bytes() + b"xx")
    (out / "1/notes.txt").write_text("mine")
    (out / "1/.7.wav.99.tmp").write_text("left")
    code, text = command("--verify", "--json")
    assert code == 1
    wrong = {entry["item"]: entry["problem"] for entry in json.loads(text)["wrong"]}
    expected = {
        "0/0.wav": "is missing",
        "1/1.wav": "is truncated",
        "2/2.wav": "its level is digital silence and was -",
        "0/3.wav": "num_frames is 4001 and was 4000",
        "1/4.wav": "sample_rate is 16000 and was 8000, num_channels is 2 and was 1",
        "2/5.wav": "NaN or Inf",
        "0/6.wav": "bytes and had",
    }
    assert set(wrong) == {*expected, None}
    for item, problem in expected.items():
        assert problem in wrong[item]
        assert str(out / item) in wrong[item]
    files = [entry["problem"] for entry in json.loads(text)["wrong"] if entry["item"] is None]
    assert len(files) == 2
    assert "1/.7.wav.99.tmp was left by a run that was killed" in files[0]
    assert "1/notes.txt is no output of this restoration" in files[1]

    code, text = command("--verify", "--retry-failed")
    assert code == 1
    assert "forgotten:   8;" in text
    (out / "1/notes.txt").unlink()
    (out / "1/.7.wav.99.tmp").unlink()
    assert restore() == 7
    assert command("--verify")[0] == 0


def test_an_output_that_was_silent_from_the_start_is_found(restore, out, command) -> None:
    restore()
    rows = out / ".ledger/rank-00000.jsonl"
    row = json.loads(rows.read_text().splitlines()[0])
    samples = np.zeros(4000)
    soundfile.write(out / row["output"], samples, 8000)
    with RowWriter(rows) as writer:
        writer.write([{**row, "output_level_db": None}])
    code, text = command("--verify")
    assert code == 1
    assert f"{row['output']}: it is silent, and its input, at -" in text


def test_a_manifest_that_is_behind_is_found(restore, out, command) -> None:
    restore()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[1:]))
    code, text = command("--verify")
    assert code == 1
    assert "manifest.jsonl lacks 1 outputs" in text
    assert restore() == 0
    assert command("--verify")[0] == 0


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("flac", "PCM_16"), ("wav", "ULAW"), ("wav", "PCM_U8"), ("wav", "FLOAT")],
)
def test_other_formats_verify_too(restore, out, command, source, format, subtype) -> None:
    peak = 0.9 if subtype == "ULAW" else 2.0
    soundfile.write(source / "loud.wav", np.tile([peak, -peak], 4000), 8000, subtype="FLOAT")
    soundfile.write(source / "quiet.wav", 1e-4 * RNG.standard_normal(4000), 8000, subtype="FLOAT")
    restore(format=format, subtype=subtype)
    assert command("--verify")[0] == 0, command("--verify")[1]


def test_what_is_no_restoration_is_one_sentence(tmp_path, command) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        code, text = command("--verify", output_dir=place)
        assert code == 2
        assert text.startswith(f"error: {place} is no output directory of src/inference.py")


def test_what_may_not_be_read_is_one_sentence(restore, out, command) -> None:
    restore()
    lock = out / ".ledger" / ".lock"
    lock.unlink()
    lock.symlink_to(lock)  # root may read all else
    assert command() == (2, f"error: {lock}: Too many levels of symbolic links\n")


@pytest.mark.integration
def test_while_tasks_run_it_says_who_and_locks_nobody_out(
    chain, tmp_path, start_script, command
) -> None:
    source, out = tmp_path / "many", tmp_path / "made"
    for number in range(24):
        write(source / f"{number}.wav", 1.5)
    words = ["src/inference.py", "--ckpt-dir", chain, "--device", "cpu"]
    words += ["--input-audio-dir", source, "--output-dir", out, "--chunk-seconds", "0.5"]
    words += ["--overlap-seconds", "0.1", "--batch-size", "1"]
    words += ["--num-shards", "2", "--shard-id"]
    task = start_script(*words, "1")
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.wav"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    task.send(signal.SIGSTOP)  # it holds its locks and does nothing
    seen = survey(open_ledger(out), now=time.time() + 60)
    running = seen.tasks[1]
    assert (running.name, running.state) == ("shard 1 of 2", "running")
    assert running.who is not None
    assert running.who.endswith(f"pid {task.pids[0]}")
    assert running.num_left is not None
    assert 0 < running.num_left < running.num_own
    assert seen.recent is not None
    assert seen.seconds_to_go == pytest.approx(running.seconds_left / seen.recent.real_time)
    assert command("--verify", output_dir=out)[0] == 0
    code, text = command("--retry-failed", output_dir=out)
    assert code == 2
    assert "written by shard 1 of 2" in text
    task.send(signal.SIGCONT)
    for _ in range(10):  # asking again and again keeps nobody from starting
        command(output_dir=out)
    other = start_script(*words, "0")
    while not (other.is_over and task.is_over):
        assert command(output_dir=out)[0] == 0
        time.sleep(0.05)
    assert (task.end().returncode, other.end().returncode) == (0, 0)
    assert "24 of 24 done" in command(output_dir=out)[1]
    assert command("--verify", output_dir=out)[0] == 0


def test_the_exit_status_is_the_run_s_own(restore, source, out, command) -> None:
    restore()
    assert command("--exit-status")[0] == 0
    for number in range(2):
        (source / f"bad{number}.wav").write_text("no")
    restore()
    assert command("--exit-status")[0] == 3
    assert command()[0] == 0  # without the option it is that of the look
    restore(allowed=MaxFailures("2"))
    assert command("--exit-status")[0] == 0
    restore(allowed=MaxFailures("9%"))
    assert json.loads(command("--exit-status", "--json")[1])["exit_status"] == 3
    command("--retry-failed")
    assert command("--exit-status")[0] == 4


def test_the_exit_status_of_an_array_is_that_of_its_tasks(restore, source, command) -> None:
    (source / "bad.wav").write_text("no")
    ill = next(k for k in range(2) if ArrayTask(2, k).own(["bad.wav"]))
    restore(ArrayTask(2, ill))
    assert command("--exit-status")[0] == 4  # the other one has not begun
    assert command("--exit-status", "--shard-id", ill)[0] == 3
    assert command("--exit-status", "--shard-id", 1 - ill)[0] == 4
    restore(ArrayTask(2, 1 - ill))
    assert command("--exit-status", "--shard-id", 1 - ill)[0] == 0
    assert command("--exit-status")[0] == 3
    code, text = command("--exit-status", "--shard-id", 2)
    assert (code, "the newest run here has 2 tasks" in text) == (2, True)


def test_the_exit_status_of_a_run_that_could_not_go_on(restore, out, command, monkeypatch) -> None:
    def full(*_):
        raise WriteError("the disk is full")

    monkeypatch.setattr(Restore, "process", full)
    with pytest.raises(UserError, match="the disk is full"):
        restore()
    assert command("--exit-status")[0] == 2
    monkeypatch.undo()


def test_what_is_not_asked_for_any_more_counts_no_more(restore, source, out, command) -> None:
    (source / "bad.wav").write_text("no")
    (source / "odd.wav").write_text("no")
    restore()
    (source / "bad.wav").rename(source / "bad.txt")
    (source / "0/0.wav").rename(source / "0/0.txt")
    restore()
    code, text = command("--exit-status", "--verify")
    assert "19 of 20 done, 0 left, 1 failed" in text
    assert "besides:     2 of earlier runs that are not asked for any more" in text
    assert "all is as recorded" in text
    assert code == 3
    listed = [json.loads(line)["input"] for line in (out / "manifest.jsonl").open()]
    assert "bad.wav" not in listed
    assert "0/0.wav" not in listed
    assert len(listed) == 20
    assert command("--retry-failed")[1].count("forgotten:   1;") == 1
    (source / "bad.txt").rename(source / "bad.wav")
    (source / "0/0.txt").rename(source / "0/0.wav")
    assert restore() == 0  # nothing is made again that was made
    assert "20 of 22 done, 0 left, 2 failed" in command()[1]
    assert (out / "0/0.wav").exists()


def test_failures_are_listed_one_a_line(restore, source, command) -> None:
    assert restore() == 20
    assert command("--failed") == (0, "")
    for name in ("b.wav", "a\nb.wav"):
        (source / name).write_text("no")
    restore()
    lines = [line.split("\t") for line in command("--failed")[1].splitlines()]
    assert [line[0] for line in lines] == ["a\\x0ab.wav", "b.wav"]
    assert all("cannot be opened as audio" in line[1] for line in lines)
    rows = [json.loads(line) for line in command("--failed", "--json")[1].splitlines()]
    assert [row["input"] for row in rows] == ["a\nb.wav", "b.wav"]
