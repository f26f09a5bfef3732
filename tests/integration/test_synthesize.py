"""`src/synthesize.py` as users run it: espeak-ng, two ranks, status, bad input in one sentence."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_codec import make_codec

from open_miipher.base.errors import exit_on_user_error
from open_miipher.commands import synthesize
from open_miipher.index import read_index, verify_index

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["Hello there, how are you today?", "The year 1984 is long over.", "Speak, and be heard."]
needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="needs espeak-ng (apt-get install espeak-ng)"
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    make_codec(folder)
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in [*TEXTS, "", *TEXTS]))
    return path


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@needs_espeak
@pytest.mark.dist
@pytest.mark.integration
@pytest.mark.slow
def test_two_ranks_speak_a_training_set_and_status_knows_it(tmp_path, texts, codec, run_script):
    out = tmp_path / "out"
    given = [
        f"dataset.name={texts}", f"processing.save_dir={out}", "tts.backend=espeak",
        f"codec.source={codec}", "processing.sample_rate=16000", "tts.batch_size=2",
    ]  # fmt: skip
    done = run_script("src/synthesize.py", *given, ranks=2, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "6 texts spoken, 1 failed" in done.stdout
    rows = {row["index"]: row for row in records(out / "audio_tokens.csv")}
    assert set(rows) == {"0", "1", "2", "4", "5", "6"}
    for row in rows.values():
        sound, rate = soundfile.read(out / row["audio"])
        seconds = len(sound) / rate
        assert (rate, row["backend"], row["codebooks"]) == (16000, "espeak", "2")
        assert len(row["tokens"].split()) == pytest.approx(150 * seconds, abs=2)
        assert all(0 <= int(token) < 1024 for token in row["tokens"].split())
    assert rows["0"]["tokens"] == rows["4"]["tokens"]  # espeak says a text always alike
    verify_index(read_index(out))
    told = subprocess.run(
        [sys.executable, ROOT / "src/status.py", out], capture_output=True, text=True, timeout=60
    )
    assert re.search(r"texts: +6 of 7 done, 0 left, 1 failed", told.stdout)
    assert "the text is empty" in told.stdout
    assert "process 0: 6 texts" in (out / "synthesis.log").read_text()
    again = run_script("src/synthesize.py", *given, "processing.max_failures=1")
    assert "nothing to do: 6 texts spoken before" in again.stdout


@needs_espeak
@pytest.mark.integration
@pytest.mark.slow
def test_what_was_said_can_be_restored_before_it_becomes_tokens(tmp_path, texts, codec, run_script):
    given = [f"dataset.name={texts}", "tts.backend=espeak", f"codec.source={codec}"]
    given += ["processing.max_failures=1"]
    for name, more in (("as_said", []), ("restored", ["processing.restore_ckpt_dir=default"])):
        run_script("src/synthesize.py", *given, f"processing.save_dir={tmp_path / name}", *more)
    for before, after in zip(
        records(tmp_path / "as_said/audio_tokens.csv"),
        records(tmp_path / "restored/audio_tokens.csv"),
        strict=True,
    ):
        assert before["index"] == after["index"]
        assert float(before["seconds"]) == pytest.approx(float(after["seconds"]), abs=0.001)
        assert before["tokens"] != after["tokens"]


def test_the_whole_configuration_is_printed(run_script):
    done = run_script("src/synthesize.py", "tts.backend=espeak", "--cfg", "job")
    assert "backend: espeak" in done.stdout
    for section in ("dataset:", "tts:", "codec:", "processing:", "output:", "logging:"):
        assert section in done.stdout


@pytest.mark.parametrize(
    ("overrides", "says_so"),
    [
        ([], "dataset.name must be given"),
        (["dataset.name={tmp}/a.txt"], "processing.save_dir must be given"),
        (["dataset.nam=x"], "there is no key dataset.nam"),
        (["tts.backend=festival"], "tts.backend"),
        (["processing.devices=cuda"], "processing.devices must be auto, or a list"),
        (["processing.num_shards=2"], "belong together"),
        (["processing.num_shards=2", "processing.shard_id=2"], "one of 0"),
        (["output.keep_audio=floats"], "one of files, shards, none"),
        (["processing.max_failures=x"], "whole number, or a share"),
        (["--config-name", "no_such"], "no_such"),
        (["{good}", "processing.devices=[cuda:7]"], "there is no cuda:7 here"),
        (["{good}", "dataset.name={tmp}/no.jsonl"], "no.jsonl cannot be read"),
        (["{good}", "dataset.name={tmp}/no_column.csv"], "has no column text, but words"),
        (["{good}", "tts.backend=whisperspeech"], "pip install '.[whisperspeech]'"),
        (["{good}", "tts.backend=token_tts"], "needs tts.model"),
        (["{good}", "codec.source={tmp}/nothing"], "codec source"),
        (["{good}", "processing.restore_ckpt_dir={tmp}/nothing"], "{tmp}/nothing"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    overrides, says_so, tmp_path, codec, monkeypatch, capsys
):
    (tmp_path / "a.txt").write_text("a text\n")
    (tmp_path / "no_column.csv").write_text("words\nx\n")
    good = [f"dataset.name={tmp_path}/a.txt", f"processing.save_dir={tmp_path}/out"]
    good += [f"codec.source={codec}"]
    if shutil.which("espeak-ng"):
        good.append("tts.backend=espeak")
    words = [word.format(tmp=tmp_path, good="GOOD") for word in overrides]
    words = [word for w in words for word in (good if w == "GOOD" else [w])]
    monkeypatch.setattr(sys, "argv", ["synthesize.py", *words])
    assert exit_on_user_error(synthesize.main)() == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert says_so.format(tmp=tmp_path) in told
    assert "Traceback" not in told
    assert not list((tmp_path / "out").glob("audio*"))
