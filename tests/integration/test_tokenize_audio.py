"""`src/tokenize_audio.py` as a user runs it: killed, on other ranks, and given what is wrong."""

import json
import random
import shutil
import signal

import pytest
from speech import voice, write_wav
from tiny_codec import make_codec

from open_miipher.shards import read_tokens

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    make_codec(folder)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    for number in range(40):
        write_wav(
            root / f"{number % 3}/{number:02d}.wav", voice(number, 0.2 + 0.05 * number), 24000
        )
    return root


def words(codec, speech, output, *more):
    given = ["--input-audio-dir", speech, "--output-dir", output, "--codec-source", codec]
    return ["src/tokenize_audio.py", *given, "--device", "cpu", "--output-shards", 3, *more]


def codes(folder):
    """All codes of all shards, by file; every file once."""
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        with path.open("rb") as file:
            for tokens in read_tokens(file, str(path)):
                assert tokens.about["file"] not in found
                found[tokens.about["file"]] = tokens.codes.tolist()
    return found


@pytest.mark.dist
def test_killed_and_on_other_ranks_every_file_is_tokenised_once(
    codec, speech, run_script, start_script, wait_until, tmp_path
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_script(*words(codec, speech, whole))
    expected = codes(whole)
    assert len(expected) == 40
    for ranks in (2, 1, 3):
        rows = lambda: sum(p.stat().st_size for p in broken.glob(".ledger/rank-*.jsonl"))  # noqa: E731
        before = rows()
        killed = start_script(*words(codec, speech, broken), ranks=ranks)
        wait_until(lambda: rows() > before or killed.is_over)  # noqa: B023
        killed.send(random.choice([signal.SIGKILL, signal.SIGTERM]))
        killed.end()
    run_script(*words(codec, speech, broken), ranks=2)
    assert codes(broken) == expected
    assert not list(broken.rglob(".*.tmp"))
    lines = (broken / "manifest.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["input"] for line in lines) == sorted(expected)
    status = run_script("src/status.py", broken, "--verify").stdout
    assert "14 of 14 done" in status
    assert "samples:     40 made, 0 failed" in status
    assert "all is as recorded" in status


def test_failures_give_the_exit_status_and_are_tried_again_when_asked(
    codec, speech, run_script, tmp_path
):
    given = shutil.copytree(speech / "0", tmp_path / "in")
    (given / "bad.wav").write_bytes(b"nothing")
    command = words(codec, given, tmp_path / "out")
    done = run_script(*command, check=False)
    assert done.returncode == 3
    assert "bad.wav" in run_script("src/status.py", tmp_path / "out", "--failed").stdout
    write_wav(given / "bad.wav", voice(0, 1.0), 24000)
    run_script(*command)
    assert "bad.wav" in codes(tmp_path / "out")


def test_what_is_wrong_is_a_sentence(codec, speech, run_script, tmp_path):
    def refused(*given):
        done = run_script(*given, check=False)
        assert done.returncode == 2
        return done.stderr

    out = tmp_path / "out"
    assert "bandwidth=7 is not offered" in refused(*words(codec, speech, out, "--bandwidth", 7))
    for seconds in (0, -1):
        said = refused(*words(codec, speech, out, "--batch-seconds", seconds))
        assert f"--batch-seconds {seconds}: give a number above 0" in said
    assert "holds no config.json" in refused(*words(tmp_path, speech, out))
    assert "is not a directory" in refused(*words(codec, tmp_path / "none", out))
    assert "inside each other" in refused(*words(codec, speech, speech / "tokens"))
    assert "goes with --input-shards" in refused(
        *words(codec, speech, out, "--shard-member", "flac")
    )
    assert not out.exists()
