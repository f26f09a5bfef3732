"""The command that makes metadata.csv, as a user runs it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).resolve().parents[2] / "dataset" / "script" / "make_metadata_csv.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, num_frames: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_frames, 0.1), 8000)
    return path


def test_it_lists_keeps_extra_columns_and_names_what_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "old.wav")
    write(tmp_path / "sub" / "new, with comma.flac", 300)
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "metadata.csv").write_text(
        "file_path,sample_rate,num_frames,num_channels,speaker\n"
        "old.wav,1,1,1,anna\nvanished.wav,1,1,1,bert\n"
    )
    result = run("--root-dir", tmp_path, "--num-workers", "2")
    assert result.returncode == 0, result.stderr
    assert "2 files, 0.00 h, 1 unreadable left out" in result.stdout
    assert f"unreadable: {tmp_path / 'bad.wav'} cannot be opened as audio" in result.stderr
    with open(tmp_path / "metadata.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["file_path", "sample_rate", "num_frames", "num_channels", "speaker"],
        ["old.wav", "8000", "100", "1", "anna"],
        ["sub/new, with comma.flac", "8000", "300", "1", ""],
    ]
    assert sorted(os.listdir(tmp_path)) == ["bad.wav", "metadata.csv", "old.wav", "sub"]


def test_nothing_readable_is_status_1_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    write(tmp_path / "good.flac")
    result = run("--root-dir", tmp_path, "--exts", "WAV, .mp3", "--num-workers", "1")
    assert result.returncode == 1
    assert "no readable audio file (1 unreadable; looked for wav, mp3)" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["bad.wav", "good.flac"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--root-dir", "/nowhere/at/all"], "error: /nowhere/at/all is not a directory"),
        (["--root-dir", ".", "--exts", "wav,,flac"], "empty extension"),
        (["--root-dir", ".", "--num-workers", "0"], "--num-workers must be at least 1"),
        (["--root-dir", ".", "--num-workers", "x"], "invalid int value"),
        ([], "--root-dir"),
    ],
)
def test_wrong_use_is_status_2_without_a_traceback(arguments: list[str], reason: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
