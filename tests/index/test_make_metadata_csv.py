"""The command that makes metadata.csv, as a user runs it."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.commands import index as command
from open_miipher.index import read_index

SCRIPT = Path(__file__).resolve().parents[2] / "dataset" / "script" / "make_metadata_csv.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, num_frames: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_frames, 0.1), 8000)
    return path


@pytest.fixture
def index(monkeypatch, capsys):
    """Return a function that runs the command in this process: its status and what it said."""

    def make(root: Path, *options: str) -> tuple[int, str]:
        words = ["make_metadata_csv.py", "--root-dir", str(root), "--num-workers", "1", *options]
        monkeypatch.setattr(sys, "argv", words)
        code = exit_on_user_error(command.main)()
        said = capsys.readouterr()
        return code, said.out + said.err

    return make


def rows_of(root: Path) -> list[dict[str, str]]:
    with open(root / "metadata.csv", newline="") as file:
        return list(csv.DictReader(file))


OTHERS = {
    "LJSpeech": ('old|Some "text|Some text\n', "LJSpeech's (id|text)"),
    "hub": ('file_name,transcription\nold.wav,"Some, text"\n', "audio folder for the hub"),
    "spreadsheet": (
        "file_path;sample_rate;num_frames;num_channels;speaker\nold.wav;8000;100;1;anna\n",
        "semicolons between its columns; save it with commas, or",
    ),
    "tabs": ("path\tsentence\nold.wav\tSome text\n", "its columns are path, sentence"),
    "empty": ("", "is empty"),
    "torn": ("file_path,sample_rate,num_frames,num_channels\nold.wav,1\n", "row 2 has 2 columns"),
    "Latin-1": ("file_path,text\nold.wav,caf\udce9\n", "is not CSV in UTF-8"),
}
COLUMNS_OF = {
    "LJSpeech": {"text": 'Some "text', "normalised_text": "Some text"},
    "hub": {"transcription": "Some, text"},
    "spreadsheet": {"speaker": "anna"},
    "tabs": {"sentence": "Some text"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_program_s_metadata_is_told_and_kept(tmp_path: Path, index, kind: str) -> None:
    """It was "make it again", which this command is for."""
    text, words = OTHERS[kind]
    write(tmp_path / "old.wav")
    write(tmp_path / "new.wav")
    path = tmp_path / "metadata.csv"
    path.write_text(text, errors="surrogateescape")
    before = path.read_bytes()
    code, said = index(tmp_path)
    assert code == 2
    assert words in said
    assert f"make_metadata_csv.py --root-dir {tmp_path} --overwrite" in said
    assert ("--merge-columns" in said) == (kind in COLUMNS_OF)
    assert path.read_bytes() == before
    code, said = index(tmp_path, "--overwrite")
    assert code == 0
    assert f"kept as {path}.old" in said
    assert (tmp_path / "metadata.csv.old").read_bytes() == before
    assert [row["file_path"] for row in rows_of(tmp_path)] == ["new.wav", "old.wav"]


@pytest.mark.parametrize("kind", COLUMNS_OF)
def test_another_program_s_columns_are_taken_over(tmp_path: Path, index, kind: str) -> None:
    write(tmp_path / "old.wav")
    write(tmp_path / "new.wav")
    (tmp_path / "metadata.csv").write_text(OTHERS[kind][0])
    code, said = index(tmp_path, "--merge-columns")
    assert code == 0
    assert "1 of 2 files have a row" in said
    new, old = rows_of(tmp_path)
    for name, text in COLUMNS_OF[kind].items():
        assert (old[name], new[name]) == (text, "")
    assert old["num_frames"] == "100"
    assert index(tmp_path)[0] == 0  # an index like any other, which keeps them
    assert rows_of(tmp_path) == [new, old]


LINES = 'LJ001-0001|He has 3 "dogs"|He has three "dogs"\nLJ001-0002|It is late, now.|\n'


@pytest.mark.parametrize("given", ["", "wavs"])
def test_ljspeech_s_texts_are_read_and_its_file_stays(tmp_path: Path, index, given: str) -> None:
    """Other programs look for it where it is; so the index goes to the audio."""
    for number in (1, 2, 3):
        write(tmp_path / f"wavs/LJ001-{number:04d}.wav")
    (tmp_path / "metadata.csv").write_text(LINES)
    code, said = index(tmp_path)  # which names the option
    assert code == 2
    assert "LJSpeech's (id|text): with --ljspeech-texts the index goes into wavs/" in said
    with pytest.raises(UserError, match="--ljspeech-texts"):
        read_index(tmp_path)
    code, said = index(tmp_path / given, "--ljspeech-texts")
    assert code == 0
    assert "2 of 3 files have a text in" in said
    assert (tmp_path / "metadata.csv").read_text() == LINES
    assert [entry.extra for entry in read_index(tmp_path / "wavs")] == [
        {"text": 'He has three "dogs"', "raw_text": 'He has 3 "dogs"'},
        {"text": "It is late, now.", "raw_text": "It is late, now."},
        {"text": "", "raw_text": ""},
    ]
    again, said = index(tmp_path / given, "--ljspeech-texts")
    assert again == 0
    assert "kept as" not in said
    assert len(list(tmp_path.rglob("*.csv*"))) == 2


def test_ljspeech_s_file_beside_its_audio_is_kept_under_another_name(tmp_path, index) -> None:
    write(tmp_path / "LJ001-0001.wav")
    (tmp_path / "metadata.csv").write_text(LINES)
    code, said = index(tmp_path, "--ljspeech-texts")
    assert code == 0
    assert f"kept as {tmp_path / 'metadata.csv.old'}" in said
    assert (tmp_path / "metadata.csv.old").read_text() == LINES
    [entry] = read_index(tmp_path)
    assert entry.extra["text"] == 'He has three "dogs"'


def test_another_table_is_not_taken_for_ljspeech_s(tmp_path: Path, index) -> None:
    write(tmp_path / "a.wav")
    code, said = index(tmp_path, "--ljspeech-texts")
    assert code == 2
    assert "is LJSpeech's table (id|text|normalised text" in said
    (tmp_path / "metadata.csv").write_text(OTHERS["hub"][0])
    assert index(tmp_path, "--ljspeech-texts")[0] == 2
    (tmp_path / "metadata.csv").write_text("LJ001-0001|some|text\n")
    code, said = index(tmp_path, "--ljspeech-texts")
    assert code == 2
    assert "has no row of any of the 1 audio files" in said


def test_what_was_kept_is_never_replaced(tmp_path: Path, index) -> None:
    write(tmp_path / "a.wav")
    for number in range(3):
        (tmp_path / "metadata.csv").write_text(f"another|{number}\n")
        assert index(tmp_path, "--overwrite")[0] == 0
    kept = [(tmp_path / f"metadata.csv.old{k}").read_text() for k in ("", "2", "3")]
    assert kept == ["another|0\n", "another|1\n", "another|2\n"]


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_full_check_finds_damage_in_the_middle(tmp_path: Path, index, num_workers: str) -> None:
    """The index made again listed the files again that training had ended at."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(24000)
    soundfile.write(tmp_path / "good.flac", noise, 24000)
    data = bytearray((tmp_path / "good.flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    (tmp_path / "damaged.flac").write_bytes(data)
    noise[12000] = np.nan
    soundfile.write(tmp_path / "nan.wav", noise, 24000, subtype="FLOAT")
    assert index(tmp_path)[0] == 0
    assert len(rows_of(tmp_path)) == 3
    code, said = index(tmp_path, "--check", "--num-workers", num_workers)
    assert code == 0
    assert [row["file_path"] for row in rows_of(tmp_path)] == ["good.flac"]
    assert f"unreadable: {tmp_path / 'nan.wav'} holds NaN or Inf at frame 12000" in said
    assert f"unreadable: {tmp_path / 'damaged.flac'} is damaged" in said


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_ctrl_c_ends_in_one_word(tmp_path: Path, num_workers: str) -> None:
    """Every worker printed its traceback."""
    os.mkfifo(tmp_path / "fifo")  # to open it takes for ever
    (tmp_path / "a.wav").symlink_to("fifo")
    write(tmp_path / "b.wav")
    command = [sys.executable, SCRIPT, "--root-dir", tmp_path, "--num-workers", num_workers]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(2.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


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
    assert "2 files, 0.1 s, 1 unreadable left out" in result.stdout
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
