"""The demo: its parts, quickly; all of it with few steps (slow)."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo.__main__ import main
from demo.commands import Progress, descendants, kill_tree, run
from demo.results import compare, make_test_files
from open_miipher.base.errors import UserError
from open_miipher.evaluation.metrics import score_file

ROOT = Path(__file__).resolve().parents[2]


def test_progress_reads_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert Progress(path, 10).last() == {}
    rows = [
        {"step": 1, "split": "train", "loss": 2.0},
        {"step": 2, "split": "train", "loss": 1.0},
        {"step": 2, "split": "validation", "loss": 3.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "spl')
    assert Progress(path, 10).last() == rows[1]


def test_what_a_resumed_training_does_again_is_no_progress(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("demo.commands.SAY_EVERY_SECONDS", -1.0)
    path = tmp_path / "metrics.jsonl"

    def say(progress: Progress, steps: int) -> str:
        rows = [{"step": x, "split": "train", "loss": 1.0} for x in range(1, steps + 1)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        progress.say()
        return capsys.readouterr().out

    assert say(Progress(path, 9), 6) == "  step 6 of 9, loss 1.000\n"
    resumed = Progress(path, 9)  # from step 4
    assert [say(resumed, steps) for steps in (6, 4, 5, 6)] == [""] * 4
    assert say(resumed, 7) == "  step 7 of 9, loss 1.000\n"


def test_a_command_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    script = "import sys; print('before'); print('the reason', file=sys.stderr); sys.exit(3)"
    with pytest.raises(UserError, match="the reason"):
        run(["python", "-c", script], tmp_path, tmp_path / "x.log")
    run(["python", "-c", script], tmp_path, tmp_path / "x.log", may_fail=True)
    assert (tmp_path / "x.log").read_text().count("the reason") == 2


def test_kill_reaches_grandchildren_in_sessions_of_their_own(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    script = f"import subprocess; subprocess.run({sleeper!r}, start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", script])
    while not (below := descendants(process.pid)):
        time.sleep(0.01)
    kill_tree(process)
    assert process.returncode == -9
    for pid in below:
        wait_for_end(pid)


def test_a_training_is_killed_at_its_step_and_not_before(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    script = f"""
import json, time
for step in range(1, 1000):
    with open({str(metrics)!r}, "a") as file:
        file.write(json.dumps({{"step": step, "split": "train", "loss": 1.0}}) + "\\n")
    time.sleep(0.02)
"""
    log = tmp_path / "x.log"
    run(["python", "-c", script], tmp_path, log, Progress(metrics, 999), kill_at=20)
    assert 20 <= Progress(metrics, 999).last()["step"] < 200
    with pytest.raises(UserError, match="before step 5000"):
        run(["python", "-c", "pass"], tmp_path, log, Progress(metrics, 999), kill_at=5000)


def test_test_files_pair_up_and_are_the_same_each_time(tmp_path: Path) -> None:
    for number in (1, 2):
        output = tmp_path / str(number)
        for name in ("speech/test", "noise"):
            shutil.copytree(ROOT / "dataset/demo" / name, output / "data" / name)
        make_test_files(output)
    names = sorted(path.name for path in (output / "clean").iterdir())
    assert names == sorted(path.name for path in (output / "noisy").iterdir())
    assert len(names) == 4
    for name in names:
        first, second = (soundfile.read(tmp_path / n / "noisy" / name)[0] for n in "12")
        clean = soundfile.read(output / "clean" / name)[0]
        assert np.array_equal(first, second)
        assert len(first) == len(clean)
        assert np.abs(first - clean).max() > 1e-3


def test_the_table_has_no_reference_columns_for_the_users_audio(tmp_path: Path) -> None:
    (tmp_path / "restored").mkdir()
    (tmp_path / "mine").mkdir()
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "mine/a.flac", samples, 16_000)
    soundfile.write(tmp_path / "restored/a.wav", samples, 16_000)
    rows = [
        {"input": "a.flac", "output": "a.wav", "error": None},
        {"input": "b.wav", "output": "b.wav", "error": "b.wav is not audio"},
    ]
    manifest = tmp_path / "restored/manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = compare(tmp_path, "restored", "spectrograms.png", tmp_path / "mine")
    assert table.splitlines()[2].split() == ["a.wav", "1.00", "-20.0", "-20.0"]
    assert "b.wav is not audio" in table
    assert (tmp_path / "spectrograms.png").stat().st_size > 10_000
    manifest.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match="no file could be restored"):
        compare(tmp_path, "restored", "spectrograms.png", tmp_path / "mine")


@pytest.mark.slow
@pytest.mark.integration
def test_the_whole_demo_with_few_steps(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    (output / "stage1").mkdir(parents=True)
    (output / "stage1/old").write_text("of an earlier run")
    (output / "mine.txt").write_text("not the demo's")
    command = [sys.executable, ROOT / "src/demo", "--output-dir", output, "--steps", "4", "9", "4"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "earlier results" in result.stdout
    assert "Killed with SIGKILL" in result.stdout
    assert not (output / "stage1/old").exists()
    assert (output / "mine.txt").exists()
    for number, steps in enumerate((4, 9, 4), start=1):
        stage = output / f"stage{number}"
        assert (stage / "ckpt/latest").exists()
        rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        trained = [row["step"] for row in rows if row["split"] == "train"]
        assert trained == sorted(set(trained))
        assert trained[-1] == steps
    names = sorted(path.name for path in (output / "noisy").iterdir())
    for name in names:
        noisy, clean = output / "noisy" / name, output / "clean" / name
        by_default = score_file(name, noisy, output / "restored" / name, clean)
        assert by_default.restored_distance < by_default.noisy_distance
        by_stage_3 = score_file(name, noisy, output / "restored_by_stage3" / name, clean)
        assert by_stage_3.restored_distance > 0
    for picture in ("spectrograms.png", "spectrograms_stage3.png"):
        assert (output / picture).stat().st_size > 10_000


def test_ones_own_audio_is_restored_and_nothing_trained(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(ROOT / "dataset/demo/speech/test/owl.flac", mine)
    words = ["demo", "--output-dir", str(tmp_path / "out"), "--audio-dir", str(mine)]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    assert "owl.wav" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "restored",
        "restored.log",
        "spectrograms.png",
    ]


def test_a_missing_audio_dir_is_said_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, reason in ((tmp_path / "none", "is no directory"), (tmp_path, "lies in")):
        words = ["demo", "--output-dir", str(tmp_path), "--audio-dir", str(folder)]
        monkeypatch.setattr(sys, "argv", words)
        assert main() == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: AUDIO_DIR=")
        assert reason in captured.err
        assert captured.out == ""


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone or a zombie that only waits for its reaper."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} goes on")
