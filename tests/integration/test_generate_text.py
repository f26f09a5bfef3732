"""`src/generate.py` with a text-to-speech model, as a user runs it: lines, kills, misuse."""

import re
import signal
from hashlib import sha256

import pytest
import soundfile
from tiny_diffusion import overrides as diffusion
from tiny_tts import RATE, overrides, words

from open_miipher.config import compose_run
from open_miipher.distributed import start
from open_miipher.training import prepare

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runs(spoken, tones, tmp_path_factory):
    """A text-to-speech model and a diffusion, of two steps."""
    root = tmp_path_factory.mktemp("runs")
    given = {"tts": overrides(spoken), "diffusion": diffusion("wavenet", tones)}
    for name, own in given.items():
        end = [f"trainer.output_dir={root / name}", "trainer.max_steps=2"]
        prepare(compose_run([*own, *end]), start("cpu")).run()
    return root


def files(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.wav")}


def name_of(number: int, text: str) -> str:
    return f"{number:06d}-{sha256(text.encode()).hexdigest()[:8]}.wav"


def test_a_text_is_said_beside_the_checkpoints(runs, run_script):
    given = ["src/generate.py", "--ckpt-dir", runs / "tts"]
    done = run_script(*given, "--text", "abc")
    folder = runs / "tts/waveforms/2"
    assert sorted(files(folder)) == [name_of(1, "abc")]
    info = soundfile.info(folder / name_of(1, "abc"))
    assert (info.samplerate, info.channels) == (RATE, 1)
    assert 320 <= info.frames <= 0.8 * RATE
    assert "1 text made, 0 failed" in done.stdout
    assert "nothing to do: 1 text made before" in run_script(*given, "--text", "abc").stdout
    run_script(*given, "--text", "abd")  # the first one stays
    assert sorted(files(folder)) == sorted([name_of(1, "abc"), name_of(1, "abd")])
    refused = run_script(*given, "--text", "abc", "--temperature", 2, check=False)
    assert refused.returncode == 2
    assert "temperature was 1.0 and is 2.0" in refused.stderr
    verify = run_script("src/status.py", folder, "--verify", check=False)
    assert "holds sounds of src/generate.py" in verify.stderr


@pytest.mark.slow
@pytest.mark.dist
def test_three_processes_and_a_kill_make_the_files_of_one(
    runs, run_script, start_script, tmp_path, wait_until
):
    lines = [*words(9, seed=7), *words(9, seed=7)]  # equal texts in other lines differ
    source = tmp_path / "lines.txt"
    source.write_text("\n".join(lines) + "\n")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = ["src/generate.py", "--ckpt-dir", runs / "tts", "--text-file", source]
    run_script(*given, "--output-dir", whole)
    killed = start_script(*given, "--output-dir", broken, ranks=3)
    rows = lambda: sum(p.stat().st_size for p in broken.glob(".ledger/rank-*.jsonl"))  # noqa: E731
    wait_until(lambda: rows() or killed.is_over)
    killed.send(signal.SIGKILL)
    killed.end()
    assert 1 <= len(files(broken)) < 18
    done = run_script(*given, "--output-dir", broken, ranks=3)
    assert " made before" in done.stdout
    assert files(broken) == files(whole)
    assert sorted(files(whole)) == [name_of(k, text) for k, text in enumerate(lines, start=1)]
    assert len(set(files(whole).values())) == 18
    at_once = tmp_path / "at-once"
    run_script(*given, "--output-dir", at_once, "--batch-size", 8)
    lengths = [
        {name: soundfile.info(folder / name).frames for name in files(folder)}
        for folder in (whole, at_once)
    ]
    assert lengths[0] == lengths[1]


def test_a_line_that_cannot_be_said_is_a_row_and_the_others_are_said(runs, run_script, tmp_path):
    source = tmp_path / "lines.txt"
    source.write_text("abc\n\nabcdefgabcdefg\nhgf\n")
    given = ["src/generate.py", "--ckpt-dir", runs / "tts", "--text-file", source]
    done = run_script(*given, "--output-dir", tmp_path / "out", check=False)
    assert done.returncode == 3
    said = done.stdout + done.stderr
    assert "line 2: the text is empty" in said
    assert re.search(r"line 3: the text 'abcdefgabcdefg'… has 14 bytes, more than 9", said)
    assert sorted(files(tmp_path / "out")) == [name_of(1, "abc"), name_of(4, "hgf")]
    allowed = run_script(*given, "--output-dir", tmp_path / "out", "--max-failures", 2)
    assert "2 failed then and did not change" in allowed.stdout


def test_texts_of_the_sets_are_said(runs, run_script, tmp_path):
    given = ["src/generate.py", "--ckpt-dir", runs / "tts", "--num-beams", 2, "--top-k", 20]
    run_script(*given, "--split", "train", "--n", 3, "--output-dir", tmp_path / "train")
    drawn = words(10, seed=1)
    wanted = [name_of(k + 1, drawn[n]) for k, n in enumerate((0, 3, 6))]
    assert sorted(files(tmp_path / "train")) == wanted
    run_script(*given, "--split", "validation", "--output-dir", tmp_path / "test")
    wanted = [name_of(k + 1, text) for k, text in enumerate(words(4, seed=2))]
    assert sorted(files(tmp_path / "test")) == wanted


@pytest.mark.parametrize(
    ("of", "more", "words"),
    [
        (
            "diffusion",
            ["--text", "abc"],
            r"--text goes with a text-to-speech model .* leave it o",
        ),
        ("diffusion", ["--num-beams", "4"], "--num-beams goes with a text-to-speech model"),
        ("diffusion", ["--n", "0"], "--n goes with a text-to-speech model"),
        ("diffusion", ["--top-k", "0"], "--top-k goes with a text-to-speech model"),
        ("tts", ["--n-samples", "0"], "--n-samples goes with a diffusion"),
        (
            "tts",
            ["--n-samples", "3"],
            "--n-samples goes with a diffusion, and model=demo_token",
        ),
        ("tts", ["--text", "a", "--sampler", "fast"], "--sampler goes with a diffusion"),
        ("tts", [], "give what is to be said, by one of --text, --text-file and --split"),
        ("tts", ["--text", "a", "--split", "train"], "give what is to be said, by one of --text"),
        ("tts", ["--text", "a", "--n", "3"], "--n goes with --split"),
        ("tts", ["--split", "train", "--n", "0"], "--n 0 must be at least 1"),
        ("tts", ["--text", ""], "--text: the text is empty"),
        ("tts", ["--text", "", "--split", "train"], "give what is to be said, by one of --text"),
        ("tts", ["--text", " "], "--text: the text is empty"),
        ("tts", ["--text", "abcdefgabcdefg"], "--text: the text .* has 14 bytes, more than 9"),
        ("tts", ["--text-file", "/nowhere.txt"], r"/nowhere\.txt \(--text-file\): No such file"),
        ("tts", ["--text", "a", "--temperature", "0"], "temperature must be above 0"),
        ("tts", ["--text", "a", "--batch-size", "0"], "--batch-size must be at least 1"),
        ("tts", ["--text", "a", "--amp", "bf16"], "--amp bf16 goes with a diffusion"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    of, more, words, runs, run_script, tmp_path
):
    given = ["src/generate.py", "--ckpt-dir", runs / of, "--output-dir", tmp_path / "out"]
    refused = run_script(*given, *more, check=False)
    assert refused.returncode == 2
    assert re.search(f"error: {words}", refused.stderr), refused.stderr
    assert not files(tmp_path)


def test_a_file_of_no_text_is_refused(runs, run_script, tmp_path):
    given = ["src/generate.py", "--ckpt-dir", runs / "tts", "--text-file", tmp_path / "lines.txt"]
    for content, said in ((b"\n \n", "is empty"), (b"\xff\xfea", "is not UTF-8")):
        (tmp_path / "lines.txt").write_bytes(content)
        refused = run_script(*given, "--output-dir", tmp_path / "out", check=False)
        assert refused.returncode == 2
        assert said in refused.stderr
