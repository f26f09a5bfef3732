"""Damaged inputs: what can be read of them is kept, and the rest is named."""

import json
import os
import re
from pathlib import Path

import pytest

from .conftest import encode, files_of, make_tar, pack_tar, samples_of, speech


def rows_of(folder: Path) -> list[dict]:
    files = sorted((folder / ".ledger").rglob("rank-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"utt003.flac") + 700])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_samples(path: Path) -> None:
    pack_tar(path, [])


def with_a_way_out(path: Path) -> None:
    good = [(f"utt{k:03d}.flac", encode(speech(k, 0.5))) for k in range(3)]
    pack_tar(path, [*good, ("../../etc/x.flac", b""), ("z.flac", good[0][1])])


def with_a_pair(path: Path) -> None:
    wave = encode(speech(0, 0.5))
    good = [(f"utt{k:03d}.flac", wave) for k in range(3)]
    pack_tar(path, [*good, ("a.noisy_input_wav.flac", wave), ("a.input_wav.flac", wave)])


def with_bad_flacs(path: Path) -> None:
    broken = bytearray(encode(speech(1, 5.0)))
    broken[300:] = bytes(len(broken) - 300)
    good = encode(speech(0, 0.5))
    names = ("utt000", "b", "utt001", "c", "utt002")
    data = (good, b"no flac", good, bytes(broken), good)
    pack_tar(path, [(f"{n}.flac", d) for n, d in zip(names, data, strict=True)])


@pytest.mark.parametrize(
    ("damage", "num_kept", "reason"),
    [
        (cut, 3, "x.tar cannot be read as a shard: .*; the 3 recordings before are kept"),
        (empty, 0, "x.tar is empty$"),
        (without_samples, 0, "x.tar holds no audio"),
        (with_a_way_out, 3, "leads out of the shard; the 3 recordings before are kept"),
        (with_a_pair, 3, "x.tar: a is a pair of .* src/preprocess.py .* 3 recordings before are"),
        (with_bad_flacs, 3, "2 of 5 files are unreadable, the first: .*b.flac cannot be opened"),
    ],
)
def test_what_can_be_read_of_a_damaged_input_is_kept(
    damage, num_kept, reason, tmp_path, preprocess, capfd
):
    path = make_tar(tmp_path / "x.tar")
    damage(path)
    make_tar(tmp_path / "good.tar", 3, seed=1)
    given = f"data.train.urls=[{tmp_path}/*.tar]"
    folder, summary = preprocess(given)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 1, 3)
    row = next(row for row in rows_of(folder) if row["id"] == str(path))
    assert re.search(reason, row["error"])
    assert "\n" not in row["error"]
    assert row["error"] in capfd.readouterr().err
    names = {
        part["name"]
        for key, sample in samples_of(folder).items()
        if key.startswith("train-x-")
        for part in json.loads(sample.members["names.json"])
    }
    assert names == {f"utt{k:03d}.flac" for k in range(num_kept)}
    made = files_of(folder)
    _, summary = preprocess(given)  # not tried again
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (0, 1, 3)
    assert files_of(folder) == made
    make_tar(path)  # until it changes
    _, summary = preprocess(given)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 0, 0)


def test_names_that_are_no_utf8_are_told_with_escapes(tmp_path, preprocess, capfd):
    good = (os.fsdecode(b"\xfe.flac"), encode(speech(0, 0.5)))
    bad = (os.fsdecode(b"\xff.gsm"), b"no audio")
    apart = (os.fsdecode(b"\xfe.txt"), b"")
    tars = [pack_tar(tmp_path / f"{k}.tar", [good, bad, apart][: 2 + k]) for k in (0, 1)]
    folder, summary = preprocess(f"data.train.urls={[str(tar) for tar in tars]}")
    assert (summary.num_done, summary.num_failed) == (0, 2)
    first, *others = json.loads((folder / "summary.json").read_text())["problems"]
    assert first.endswith(
        r"0.tar: \xff has no audio that is read, but gsm; convert it, with ffmpeg for one"
    )
    assert r"the members of \xfe do not stand together" in others[0]
    assert first in capfd.readouterr().err
    (names, _) = (json.loads(s.members["names.json"]) for s in samples_of(folder).values())
    assert names[0]["name"] == os.fsdecode(b"\xfe.flac")
