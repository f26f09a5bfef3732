"""A folder of restored files, measured by the command that users have."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.evaluation.evaluate import match_files, summarise

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def write(path, seconds=1.0, rate=RATE, seed=0, noise=0.0, gain=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30))
    waveform = gain * (buzz * (np.sin(2 * np.pi * 3 * time) > -0.3))
    soundfile.write(path, waveform + noise * rng.standard_normal(len(time)), rate)


def test_files_are_matched_by_path_whatever_their_extension(tmp_path):
    for name in ("r/a.wav", "r/b/c.wav", "r/x.wav", "r/x.flac.wav", "c/a.flac", "c/b/c.wav"):
        write(tmp_path / name)
    for name in ("c/x.wav", "c/x.flac"):
        write(tmp_path / name)
    files = {x.name: x for x in match_files(tmp_path / "r", tmp_path / "c")}
    found = {name: x.reference.relative_to(tmp_path / "c").as_posix() for name, x in files.items()}
    assert found == {
        "a.wav": "a.flac",
        "b/c.wav": "b/c.wav",
        "x.wav": "x.wav",
        "x.flac.wav": "x.flac",
    }
    assert all(x.before is None for x in files.values())


def test_missing_and_ambiguous_counterparts_are_refused_all_at_once(tmp_path):
    for name in ("r/a.wav", "r/b.wav", "c/a.wav", "i/b.wav"):
        write(tmp_path / name)
    with pytest.raises(UserError) as error:
        match_files(tmp_path / "r", tmp_path / "c", tmp_path / "i")
    assert "--reference-dir" in str(error.value)
    assert "1 of 2 restored files (the first: b.wav)" in str(error.value)
    assert "--input-dir" in str(error.value)
    write(tmp_path / "i/a.flac")
    write(tmp_path / "i/a.ogg")
    with pytest.raises(UserError, match=r"a\.flac and a\.ogg"):
        match_files(tmp_path / "r", None, tmp_path / "i")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        match_files(tmp_path / "empty")


def test_the_interval_holds_the_mean_and_shrinks_with_the_number_of_files():
    rng = np.random.default_rng(0)
    few = [{"estoi": float(x)} for x in rng.normal(0.8, 0.1, 10)]
    many = [{"estoi": float(x)} for x in rng.normal(0.8, 0.1, 1000)] + [{"file": "without"}]
    short, long = (summarise(rows, ["estoi", "pesq"]) for rows in (few, many))
    assert "pesq" not in short
    assert long["estoi"]["n"] == 1000
    # The standard error of a mean of 1000 is 0.1 / sqrt(1000); 95 % are 3.92 of them wide.
    width = long["estoi"]["high"] - long["estoi"]["low"]
    assert width == pytest.approx(3.92 * 0.1 / np.sqrt(1000), rel=0.1)
    assert short["estoi"]["high"] - short["estoi"]["low"] > 5 * width
    assert long["estoi"]["low"] < long["estoi"]["mean"] < long["estoi"]["high"]


def run_quickly(monkeypatch, capsys, *words):
    """Run the command in this process, as if only NumPy and pystoi were installed."""
    for package in ("speechmos", "resemblyzer", "pesq"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "src/evaluate.py"), run_name="__main__")
    return end.value.code, *capsys.readouterr()


def run_whole(run_script, *words):
    process = run_script("src/evaluate.py", *words, check=False)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.integration])]
)
def test_the_command_measures_writes_and_tells_what_it_could_not(
    whole, run_script, monkeypatch, capsys, tmp_path
):
    for number in range(3):
        write(tmp_path / f"clean/{number}.flac", 2.0, 24000, number)
        write(tmp_path / f"noisy/{number}.wav", 2.0, 24000, number, noise=0.1)
        write(tmp_path / f"restored/{number}.wav", 2.0, 24000, number, noise=0.001)
    write(tmp_path / "restored/2.wav", 1.0, 24000)  # too short
    (tmp_path / "noisy/1.wav").write_bytes(b"no audio")
    words = [
        *["--restored-dir", tmp_path / "restored", "--reference-dir", tmp_path / "clean"],
        *["--input-dir", tmp_path / "noisy", "--output-dir", tmp_path / "out"],
        *["--num-workers", 2 if whole else 1],
    ]
    status, said, told = (
        run_whole(run_script, *words) if whole else run_quickly(monkeypatch, capsys, *words)
    )
    assert status == 0, told
    with open(tmp_path / "out/per_file.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["0.wav", "1.wav", "2.wav"]
    assert rows[0]["problems"] == ""
    assert "1.wav" in rows[1]["problems"]
    assert rows[1]["log_spectral_distance"] != ""  # its input alone cannot be read
    assert rows[1]["input_level_db"] == ""
    assert "it lasts 2.00 s, the file 1.00 s" in rows[2]["problems"]
    assert rows[2]["level_db"] != ""
    assert rows[2]["log_spectral_distance"] == ""
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    distance = summary["log_spectral_distance"]
    assert distance["n"] == 2
    assert distance["low"] <= distance["mean"] <= distance["high"]
    assert distance["mean"] < summary["input_log_spectral_distance"]["mean"]
    assert "left out: nisqa" in told
    assert ("left out: dnsmos" in told) != whole
    assert ("dnsmos_overall" in summary) == whole
    assert "log_spectral_distance" in said


def test_wrong_use_is_one_sentence(run_script, tmp_path):
    write(tmp_path / "restored/a.wav")
    (tmp_path / "file").touch()
    wrong = {
        "cannot be made": [
            "--restored-dir",
            tmp_path / "restored",
            "--output-dir",
            tmp_path / "file",
        ],
        "is not a directory": ["--restored-dir", tmp_path / "none"],
        "choose another folder": ["--restored-dir", tmp_path, "--output-dir", tmp_path],
        "is not a file": ["--restored-dir", tmp_path, "--nisqa-weights", tmp_path / "none"],
        "must be at least 1": ["--restored-dir", tmp_path, "--num-workers", 0],
    }
    for message, arguments in wrong.items():
        process = run_script(
            "src/evaluate.py", "--output-dir", tmp_path / "out", *arguments, check=False
        )
        assert process.returncode == 2, message
        assert message in process.stderr
        assert "Traceback" not in process.stderr
