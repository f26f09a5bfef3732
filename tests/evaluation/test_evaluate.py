"""A folder of restored files, measured by the command that users have."""

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.corpus.evaluating import Evaluate
from open_miipher.corpus.status import open_ledger, survey
from open_miipher.corpus.verify import verify
from open_miipher.distributed import hold
from open_miipher.distributed.process import STOP_SIGNALS
from open_miipher.evaluation import report
from open_miipher.evaluation.evaluate import find_texts, match_files
from open_miipher.evaluation.results import Column, Evaluation, Sounds, summarise, summary_table

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
    files = match_files({"r": tmp_path / "r"}, tmp_path / "c")
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
        match_files({"r": tmp_path / "r"}, tmp_path / "c", tmp_path / "i")
    assert "--reference-dir" in str(error.value)
    assert "1 of 2 restored files (the first: b.wav)" in str(error.value)
    assert "--input-dir" in str(error.value)
    write(tmp_path / "i/a.flac")
    write(tmp_path / "i/a.ogg")
    with pytest.raises(UserError, match=r"a\.flac and a\.ogg"):
        match_files({"r": tmp_path / "r"}, None, tmp_path / "i")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        match_files({"r": tmp_path / "empty"})


def test_files_of_several_systems_are_matched_and_what_one_lacks_is_told(tmp_path, recwarn):
    for name in ("one/a.wav", "one/b/c.wav", "two/a.flac", "two/d.wav", "clean/d.wav"):
        write(tmp_path / name)
    systems = {name: tmp_path / name for name in ("one", "two")}
    files = match_files(systems)
    found = {
        name: {k: v.relative_to(tmp_path).as_posix() for k, v in x.restored.items()}
        for name, x in files.items()
    }
    assert found == {
        "a.wav": {"one": "one/a.wav", "two": "two/a.flac"},
        "b/c.wav": {"one": "one/b/c.wav"},
        "d.wav": {"two": "two/d.wav"},
    }
    told = [str(warning.message) for warning in recwarn]
    assert any("one has nothing for 1 of 3 files (the first: d.wav)" in text for text in told)
    assert any("two has nothing for 1 of 3 files (the first: b/c.wav)" in text for text in told)
    write(tmp_path / "two/a.wav")
    with pytest.raises(UserError, match=r"two/a\.wav may both belong to a\.wav"):
        match_files(systems)


def test_texts_come_from_a_table_or_lie_beside_the_recordings(tmp_path):
    names = ["a.wav", "b/c.wav"]
    (tmp_path / "table.csv").write_text('file_path,text\na.flac,"One, two."\nb/c.wav,Three\n')
    wanted = {"a.wav": "One, two.", "b/c.wav": "Three"}
    assert find_texts(tmp_path / "table.csv", names) == wanted
    folder = tmp_path / "clean"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("One, two.")
    (folder / "b/c.txt").write_text("Three")
    assert find_texts(folder, names) == wanted
    (folder / "metadata.csv").write_text("file_path,text\na.wav,Other\nb/c.wav,Words\n")
    assert find_texts(folder, names) == {"a.wav": "Other", "b/c.wav": "Words"}
    (folder / "metadata.csv").write_text("file_path,sample_rate\na.wav,16000\n")
    for path, said in (
        (folder, "needs the columns file_path and text"),
        (tmp_path / "none.csv", "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            find_texts(path, names)
    with pytest.raises(UserError, match=r"no line for 1 of 3 restored files \(the first: d\.wav\)"):
        find_texts(tmp_path / "table.csv", [*names, "d.wav"])


def test_differences_between_systems_are_taken_file_by_file_where_both_have_values():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        hard = float(rng.normal(0, 1))  # for every system
        rows.append({"file": f"{number}", "system": "one", "estoi": hard, "problems": ""})
        if number % 2:
            better = hard + 0.1 + float(rng.normal(0, 0.01))
            rows.append({"file": f"{number}", "system": "two", "estoi": better, "problems": ""})
    sounds = {f"{number}": Sounds({}) for number in range(200)}
    found = Evaluation(["one", "two"], [Column("estoi", "ESTOI")], rows, sounds, {})
    difference = found.paired["two"]["estoi"]
    assert difference["n"] == 100
    assert difference["mean"] == pytest.approx(0.1, abs=0.003)
    assert 0.09 < difference["low"] < difference["mean"] < difference["high"] < 0.11
    # while the systems' own intervals are far wider than what is between them
    assert found.summaries["two"]["estoi"]["high"] - found.summaries["two"]["estoi"]["low"] > 0.3
    assert summary_table(found).splitlines()[0].split() == [
        *["metric", "one", "two", "two", "-", "one", "files"]
    ]


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
    # The report asks for each column alone, worst files first, and is to show the same.
    beside = [{"pesq": 2.0, **row} for row in reversed(many)]
    assert summarise(beside, ["pesq", "estoi"])["estoi"] == long["estoi"]


def test_a_mean_that_rounds_to_nothing_has_no_sign():
    rows = [{"file": "a", "system": "one", "lag_ms": -0.0001, "problems": ""}]
    found = Evaluation(["one"], [Column("lag_ms", "Lag")], rows, {"a": Sounds({})}, {})
    assert summary_table(found).splitlines()[-1].split() == ["lag_ms", "0.000", "±", "0.000", "1"]


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
    assert "9.0 s of 9.0 s" in told  # of an input that cannot be read, nothing
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
    assert rows[2]["length_difference_ms"] == "-1000"
    assert abs(summary["lag_ms"]["mean"]) < 0.01
    table = (tmp_path / "out/per_file.csv").read_bytes()
    status, said, told = (
        run_whole(run_script, *words) if whole else run_quickly(monkeypatch, capsys, *words)
    )
    assert "nothing to do: 6 recordings measured before" in told
    assert (tmp_path / "out/per_file.csv").read_bytes() == table


def test_several_systems_give_a_row_each_and_differences(monkeypatch, capsys, tmp_path):
    for number in range(3):
        write(tmp_path / f"clean/{number}.wav", 0.5, 24000, number)
        write(tmp_path / f"noisy/{number}.wav", 0.5, 24000, number, noise=0.1)
        write(tmp_path / f"good/{number}.wav", 0.5, 24000, number, noise=0.001)
        write(tmp_path / f"bad/{number}.wav", 0.5, 24000, number, noise=0.05)
    (tmp_path / "bad/2.wav").unlink()
    measured = ["--measures", "level", "log_spectral_distance", "--num-workers", 1]
    words = [
        *["--restored-dir", f"ours={tmp_path / 'good'}", tmp_path / "bad"],
        *["--reference-dir", tmp_path / "clean", "--input-dir", tmp_path / "noisy"],
        *["--output-dir", tmp_path / "out", *measured],
    ]
    status, said, told = run_quickly(monkeypatch, capsys, *words)
    assert status == 0, told
    assert "8 recordings measured" in told  # inputs once
    assert "bad - ours" in said
    with open(tmp_path / "out/per_file.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["file"], row["system"]) for row in rows]
    both = [(f"{number}.wav", system) for number in range(2) for system in ("ours", "bad")]
    assert pairs == [*both, ("2.wav", "ours")]
    assert rows[0]["input_level_db"] == rows[1]["input_level_db"] != rows[0]["level_db"]
    found = json.loads((tmp_path / "out/summary.json").read_text())
    means = {k: v["log_spectral_distance"]["mean"] for k, v in found["systems"].items()}
    difference = found["paired"]["bad"]["log_spectral_distance"]
    assert difference["n"] == 2
    assert 0 < difference["low"] <= difference["mean"] <= difference["high"]
    assert means["ours"] < means["bad"]
    # A changed file is measured again, and its differences follow; nothing else is.
    write(tmp_path / "bad/0.wav", 0.5, 24000, 0, noise=0.2)
    _, _, told = run_quickly(monkeypatch, capsys, *words)
    assert "1 recording measured, 0 unreadable; 7 recordings measured before" in told
    worse = json.loads((tmp_path / "out/summary.json").read_text())["paired"]["bad"]
    assert worse["log_spectral_distance"]["mean"] > difference["mean"]


def test_what_cannot_be_read_or_is_silent_or_one_sample_long_is_a_row(
    monkeypatch, capsys, tmp_path
):
    for number in range(5):
        write(tmp_path / f"clean/{number}.wav")
        write(tmp_path / f"restored/{number}.wav", noise=0.01)
    soundfile.write(tmp_path / "restored/1.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "restored/2.wav", np.full(1, 0.1), RATE)
    soundfile.write(tmp_path / "restored/3.wav", np.full((48000, 2), 0.1), 48000)
    (tmp_path / "restored/4.wav").write_bytes(b"RIFF no audio")
    odd = os.fsdecode(b"not utf-8 \xff.wav")
    for kind in ("clean", "restored"):
        write(tmp_path / kind / "odd.wav")
        (tmp_path / kind / "odd.wav").rename(tmp_path / kind / odd)
    words = ["--restored-dir", tmp_path / "restored", "--reference-dir", tmp_path / "clean"]
    words += ["--output-dir", tmp_path / "out", "--num-workers", 1]
    status, _, told = run_quickly(monkeypatch, capsys, *words)
    assert status == 3  # one cannot be read
    with open(tmp_path / "out/per_file.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert [rows[f"{n}.wav"]["seconds"] for n in range(5)] == ["1", "1", "6.25e-05", "1", ""]
    assert "it is silent" in rows["1.wav"]["problems"]
    assert "the file 0.00 s" in rows["2.wav"]["problems"]
    assert rows["3.wav"]["log_spectral_distance"] != ""
    assert "4.wav" in rows["4.wav"]["problems"]
    assert "not utf-8 \\udcff.wav" in rows
    assert json.loads((tmp_path / "out/summary.json").read_text())["level_db"]["n"] == 3
    assert "5 recordings measured, 1 unreadable" in told
    ledger = open_ledger(tmp_path / "out")
    assert [survey(ledger).num_failed, survey(ledger).num_done] == [1, 5]
    with pytest.raises(UserError, match="--verify checks restorations"):
        verify(ledger, 1, False, False)


def test_a_signal_ends_the_report_and_no_other_run_writes_it_meanwhile(
    monkeypatch, capsys, tmp_path
):
    write(tmp_path / "restored/a.wav")
    words = ["--restored-dir", tmp_path / "restored", "--output-dir", tmp_path / "out", "--report"]
    words += ["--measures", "level", "--num-workers", 1]
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]

    def write_report(*_):
        with pytest.raises(UserError, match="another run is writing"):
            hold(tmp_path / "out/.ledger")
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", write_report)
        assert run_quickly(patched, capsys, *words)[0] == 4
    for number, handler in zip(STOP_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    assert run_quickly(monkeypatch, capsys, *words)[0] == 0
    assert (tmp_path / "out/report/index.html").is_file()


def test_a_signal_while_it_measures_is_told_without_a_table_of_nothing(
    monkeypatch, capsys, tmp_path
):
    write(tmp_path / "restored/a.wav")
    words = ["--restored-dir", tmp_path / "restored", "--output-dir", tmp_path / "out", "--report"]
    words += ["--measures", "level", "length", "lag", "--num-workers", 1]
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    plan = Evaluate.plan

    def signalled(task, ledger):
        os.kill(os.getpid(), signal.SIGTERM)
        return plan(task, ledger)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluate, "plan", signalled)
        code, printed, said = run_quickly(patched, capsys, *words)
    for number, handler in zip(STOP_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    assert code == 4
    assert "metric" not in printed
    assert "left out: length, lag: give clean recordings to compare with" in said
    assert "ended early by SIGTERM; the same command goes on" in said
    assert run_quickly(monkeypatch, capsys, *words)[0] == 0


@pytest.mark.dist
def test_killed_and_started_again_it_gives_the_same_table_and_measures_nothing_twice(
    run_script, tmp_path
):
    for number in range(24):
        write(tmp_path / f"clean/{number}.wav", 4.0, seed=number)
        write(tmp_path / f"restored/{number}.wav", 4.0, seed=number, noise=0.01)
    words = [
        *["--restored-dir", tmp_path / "restored", "--reference-dir", tmp_path / "clean"],
        *["--measures", "level", "lag", "log_spectral_distance", "mel_distances"],
        *["--num-workers", 2, "--output-dir"],
    ]
    run_script("src/evaluate.py", *words, tmp_path / "whole")
    command = [sys.executable, ROOT / "src/evaluate.py", *words, tmp_path / "out"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    rows = tmp_path / "out/.ledger/rank-00000.jsonl"
    while not rows.exists() or rows.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "out/per_file.csv").exists()
    before = rows.read_bytes().count(b"\n")
    again = run_script("src/evaluate.py", *words, tmp_path / "out")
    assert f"{24 - before} recordings measured" in again.stderr
    ids = [json.loads(line)["id"] for line in rows.read_text().splitlines()]
    assert sorted(ids) == sorted(f"restored/{number}.wav" for number in range(24))
    for name in ("per_file.csv", "summary.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_wrong_use_is_one_sentence(run_script, tmp_path):
    write(tmp_path / "restored/a.wav")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
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
        "lies in --reference-dir": [
            *["--restored-dir", tmp_path / "restored", "--reference-dir", tmp_path]
        ],
        "names no folder": ["--restored-dir", "ours="],
        "belong together": ["--restored-dir", tmp_path, "--text", tmp_path],
        "cannot be called 'a'": ["--restored-dir", f"a={tmp_path}", f"a={tmp_path}"],
        "no metric can be taken": ["--restored-dir", tmp_path / "restored", "--measures", "estoi"],
        "has nothing for 1 of 1": [
            *["--restored-dir", tmp_path / "restored", "--reference-dir", tmp_path / "empty"]
        ],
    }
    for message, arguments in wrong.items():
        process = run_script(
            "src/evaluate.py", "--output-dir", tmp_path / "out", *arguments, check=False
        )
        assert process.returncode == 2, message
        assert message in process.stderr
        assert "Traceback" not in process.stderr
