"""Shards in, shards out; directories and manifests in, shards out."""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import UserError
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.recordings import Directory, Manifest
from open_miipher.corpus.run import run
from open_miipher.corpus.tars import Groups
from open_miipher.corpus.writers import ShardOutput
from open_miipher.shards import (
    Sample,
    encode_waveform,
)

sys.path.insert(0, str(Path(__file__).parent))
from packed import RNG, audio, decode, files, listed, pack, speech, unpack


def test_samples_keep_their_keys_order_and_other_members(source, out, make, alone):
    shards = {
        name: [
            speech(number, seconds=0.1 + 0.3 * (number % 4)) for number in range(first, first + 9)
        ]
        for name, first in (("train/000.tar", 0), ("train/001.tar", 9), ("dev/000.tar", 18))
    }
    for name, samples in shards.items():
        pack(source / name, samples)
    summary = run(make(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (3, 0, 0)
    assert files(out) == sorted([*shards, "manifest.jsonl"])
    for name, samples in shards.items():
        made = unpack(out / name)
        assert [sample.key for sample in made] == [sample.key for sample in samples]
        for before, after in zip(samples, made, strict=True):
            assert list(after.members) == ["wav", "txt", "json"]
            assert {**after.members, "wav": b""} == {
                "wav": b"",
                "txt": before.members["txt"],
                "json": before.members["json"],
            }
            expected, _ = decode(before.members["flac"])
            restored, rate = decode(after.members["wav"])
            assert rate == 8000
            np.testing.assert_allclose(restored, expected, atol=1e-4)
    rows = listed(out)
    assert len(rows) == 27
    assert [row["output"] for row in rows] == sorted(row["output"] for row in rows)
    first = rows[0]
    assert first["input"] == "dev/000.tar/d/k18.flac"
    assert (first["output"], first["key"]) == ("dev/000.tar", "d/k18")
    assert first["audio_filepath"] == "d/k18.wav"
    assert first["error"] is None
    assert first["num_frames"] == first["input_num_frames"] > 0
    assert first["model"] == "same-again"
    seen = webdataset.WebDataset(str(out / "train/000.tar"), shardshuffle=False)
    assert [sample["txt"] for sample in seen] == [s.members["txt"] for s in shards["train/000.tar"]]


def test_what_is_done_is_kept_and_what_changed_is_made_again(source, out, make, alone, capsys):
    for number in range(4):
        pack(source / f"{number}.tar", [speech(number)])
    run(make(), out, alone)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    (out / "1.tar").unlink()
    (out / "2.tar").write_bytes(b"cut")
    pack(source / "3.tar", [speech(3), speech(30)])
    pack(source / "4.tar", [speech(4)])
    capsys.readouterr()
    assert run(make(), out, alone).num_done == 4
    assert "4 to do, 1 done before, 1 changed since" in capsys.readouterr().out
    assert (out / "0.tar").stat().st_mtime_ns == before["0.tar"]
    assert len(listed(out)) == 6
    assert run(make(), out, alone).num_done == 0
    assert run(make(), out, alone, overwrite=True).num_done == 5


def test_all_audio_members_or_the_one_asked_for(source, out, make, alone):
    first, second = audio(rate=16000), audio()
    sample = Sample("k", {"noisy.flac": first, "a.b.WAV": second, "wav": second, "txt": b"t"})
    pack(source / "x.tar", [sample])
    run(make(), out, alone)
    made = unpack(out / "x.tar")[0].members
    assert list(made) == ["noisy.wav", "a.b.wav", "wav", "txt"]
    assert [decode(made[name])[1] for name in ("noisy.wav", "a.b.wav", "wav")] == [8000] * 3
    assert len(listed(out)) == 3
    assert Ledger(out).rows()["x.tar"]["num_samples"] == 1
    with pytest.raises(UserError, match="shard_member was None and is wav"):
        run(make(member="wav"), out, alone)
    run(make(member="wav", format="flac"), out, alone, overwrite=True)
    made = unpack(out / "x.tar")[0].members
    assert list(made) == ["noisy.flac", "a.b.WAV", "flac", "txt"]
    assert (made["noisy.flac"], made["a.b.WAV"]) == (first, second)
    other = out.with_name("other")
    run(make(member="ogg", output_dir=other), other, alone)
    assert listed(other)[0]["error"] == "x.tar/k has no member ogg"


def test_two_members_that_want_one_name_get_two(source, out, make, alone):
    pack(source / "x.tar", [Sample("k", {"flac": audio(), "mp3": audio(1.0, 16000, "mp3")})])
    run(make(format="flac"), out, alone)
    assert list(unpack(out / "x.tar")[0].members) == ["flac", "mp3.flac"]


def test_arrays_are_restored_with_the_rate_beside_them(source, out, make, alone):
    waveform = (0.1 * RNG.standard_normal(4000)).astype(np.float32)
    array = encode_waveform(waveform, 16000, "npy")
    pack(
        source / "x.tar",
        [
            Sample("a", {"noisy.npy": array, "sr.index": b"16000", "features.npy": b"any"}),
            Sample("b", {"noisy.npy": array}),
            Sample("c", {"noisy.npy": b"no array", "sr.index": b"16000"}),
        ],
    )
    run(make(member="noisy.npy", sample_rate="input"), out, alone)
    made = unpack(out / "x.tar")
    assert [list(sample.members) for sample in made] == [["noisy.wav", "sr.index", "features.npy"]]
    restored, rate = decode(made[0].members["noisy.wav"])
    assert (len(restored), rate) == (num_output_frames(4000, 16000, 16000), 16000)
    errors = [row["error"] for row in listed(out) if row["error"]]
    assert "no member sr.index" in errors[0]
    assert "x.tar/c.noisy.npy" in errors[1]


def test_compressed_shards_are_read_and_plain_ones_written(source, out, make, alone):
    samples = [speech(number) for number in range(3)]
    plain = pack(source / "a.tar", samples)
    with tarfile.open(plain) as tar, tarfile.open(source / "b.tar.gz", "w:gz") as packed:
        for member in tar:
            packed.addfile(member, tar.extractfile(member))
    shutil.copy(source / "b.tar.gz", source / "a.tgz")
    assert run(make(), out, alone).exit_code == 0
    assert files(out) == ["a.tar", "a.tgz.tar", "b.tar", "manifest.jsonl"]
    assert (out / "a.tar").read_bytes() == (out / "b.tar").read_bytes()


@pytest.mark.parametrize(
    ("urls", "outputs"),
    [
        (["in/a/{0..1}.tar"], ["0.tar", "1.tar"]),
        (["in/a", "in/b/?.tar"], ["a/0.tar", "a/1.tar", "b/0.tar"]),
        (["in/list.txt"], ["a/0.tar", "b/0.tar"]),
        (["in/b/0.tar"], ["0.tar"]),
    ],
)
def test_names_are_paths_below_the_common_folder(
    tmp_path, source, out, make, alone, monkeypatch, urls, outputs
):
    for number, name in enumerate(("a/0", "a/1", "b/0")):
        pack(source / f"{name}.tar", [speech(number)])
    (source / "list.txt").write_text("# two\nin/a/0.tar\n\nin/b/0.tar\n")
    monkeypatch.chdir(tmp_path)
    run(make(*urls), out, alone)
    assert files(out) == sorted([*outputs, "manifest.jsonl"])


def test_options_hold_for_members(source, out, make, alone):
    pack(source / "x.tar", [Sample("k", {"wav": audio(rate=16000, format="wav", channels=2)})])
    task = make(format="flac", subtype="PCM_24", channels="each", level="peak", sample_rate="input")
    run(task, out, alone)
    data = unpack(out / "x.tar")[0].members["flac"]
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype, info.channels) == ("FLAC", "PCM_24", 2)
    assert (info.samplerate, info.frames) == (16000, 3200)
    assert np.abs(decode(data)[0]).max() == pytest.approx(0.9, abs=1e-3)
    nine = pack(source / "y.tar", [Sample("k", {"wav": audio(format="wav", channels=9)})])
    assert run(task, out, alone).num_failed == 1
    assert "at most 8 channels" in listed(out)[1]["error"]
    assert nine.exists()


def test_the_same_samples_as_files_and_as_shards_give_the_same_bytes(source, out, make_task, alone):
    for number in range(7):
        path = source / f"{number % 2}/{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(audio(0.3 + 0.31 * number, 16000))
    as_files, as_shards = out / "files", out / "shards"
    run(make_task(output_dir=as_files, sample_rate="input"), as_files, alone)
    groups = Groups(Directory(source), 3)
    run(make_task(shards=groups, output_dir=as_shards, sample_rate="input"), as_shards, alone)
    assert files(as_shards) == ["manifest.jsonl", *(f"restored-00000{k}.tar" for k in range(3))]
    made = {
        f"{sample.key}.wav": sample.members["wav"]
        for name in files(as_shards)[1:]
        for sample in unpack(as_shards / name)
    }
    assert made == {name: (as_files / name).read_bytes() for name in made}
    assert len(made) == 7
    keys = ("input", "duration", "input_level_db", "output_level_db", "num_frames", "error")
    file_rows = [{key: row[key] for key in keys} for row in listed(as_files)]
    assert [{key: row[key] for key in keys} for row in listed(as_shards)] == file_rows


def test_a_manifest_into_shards_carries_what_it_says(tmp_path, source, out, make_task, alone):
    for name in ("a.v2.wav", "a_v2.flac", "__b__.wav"):
        (source / name).write_bytes(audio(1.0, 8000, name.rpartition(".")[2]))
    lines = [
        {"audio_filepath": "a.v2.wav", "offset": 0.5, "duration": 0.25, "text": "größe"},
        {"audio_filepath": "a.v2.wav", "offset": 0.1, "duration": 0.1},
        {"audio_filepath": "a_v2.flac", "speaker": 3},
        {"audio_filepath": "__b__.wav"},
        {"audio_filepath": "gone.wav", "text": "nothing"},
    ]
    manifest = source / "m.jsonl"

    def restore() -> tuple[int, int]:
        manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        task = make_task(shards=Groups(Manifest(manifest), 10))
        summary = run(task, out, alone)
        return summary.num_done, summary.num_failed

    assert restore() == (0, 1)
    samples = {sample.key: sample.members for sample in unpack(out / "restored-000000.tar")}
    assert sorted(samples) == ["_b__", "a_v2", "a_v2@0_1+0_1", "a_v2@0_5+0_25"]
    carried = json.loads(samples["a_v2@0_5+0_25"]["json"])
    assert carried == {"text": "größe", "input_filepath": "a.v2.wav", "input_offset": 0.5}
    assert soundfile.info(io.BytesIO(samples["a_v2@0_5+0_25"]["wav"])).frames == 2000
    rows = {row["input"]: row for row in listed(out)}
    assert rows["a_v2.flac"]["speaker"] == 3
    assert rows["gone.wav"]["text"] == "nothing"
    assert "No such file" in rows["gone.wav"]["error"]
    assert restore() == (0, 1)  # failed before
    lines.pop()
    lines[0]["text"] = "new"
    assert restore() == (1, 0)
    assert json.loads(unpack(out / "restored-000000.tar")[2].members["json"])["text"] == "new"
    assert {row.get("text") for row in listed(out)} == {None, "new"}


def test_files_that_come_later_get_shards_of_their_own(source, out, make_task, alone):
    def restore() -> int:
        return run(make_task(shards=Groups(Directory(source), 2)), out, alone).num_done

    for name in "bdf":
        (source / f"{name}.wav").write_bytes(audio(format="wav"))
    assert restore() == 2
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)[1:]}
    (source / "a.wav").write_bytes(audio(format="wav"))
    (source / "c.wav").write_bytes(audio(format="wav"))
    (source / "e.wav").write_bytes(audio(format="wav"))
    assert restore() == 2
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert len(files(out)) == 5
    (source / "d.wav").write_bytes(audio(0.5, format="wav"))
    (source / "f.wav").unlink()
    assert restore() == 1
    keys = [[sample.key for sample in unpack(out / name)] for name in files(out)[1:]]
    assert keys[0] == ["b", "d"]
    assert sorted(key for group in keys[2:] for key in group) == ["a", "c", "e"]


def test_another_size_of_shards_needs_another_directory(source, out, make_task, alone):
    for number in range(5):
        (source / f"{number}.wav").write_bytes(audio(format="wav"))
    run(make_task(shards=Groups(Directory(source), 2)), out, alone)
    made = files(out)
    with pytest.raises(UserError, match=r"samples_per_shard was 2 and is 4"):
        run(make_task(shards=Groups(Directory(source), 4)), out, alone)
    with pytest.raises(UserError, match=r"begun with samples_per_shard=2.* now it is 4; keep it"):
        run(make_task(shards=Groups(Directory(source), 4)), out, alone, overwrite=True)
    again = run(make_task(shards=Groups(Directory(source), 2)), out, alone)
    assert (again.num_done, files(out)) == (0, made)


def test_an_array_makes_every_shard_once(source, out, make, alone):
    def restore(task: ArrayTask) -> int:
        return run(make(), out, alone, array_task=task).num_done

    for number in range(11):
        pack(source / f"{number}.tar", [speech(number)])
    assert sum(restore(ArrayTask(3, index)) for index in range(3)) == 11
    assert len(listed(out)) == 11
    assert run(make(), out, alone).num_done == 0
    assert [restore(ArrayTask(2, index)) for index in (0, 1)] == [0, 0]


def test_many_small_shards_share_batches_and_few_samples_wait(
    source, out, make, alone, monkeypatch
):
    pack(source / "large.tar", [speech(number) for number in range(150)])
    for number in range(30):
        pack(source / f"small{number:02d}.tar", [speech(number)])
    waiting: list[int] = []
    open_at_once: set[int] = set()
    add = ShardOutput.add

    def watched(self, sample):
        jobs = add(self, sample)
        waiting.append(len(self._samples))
        open_at_once.add(sum(not shard.is_read or bool(shard._samples) for shard in known))
        return jobs

    known: list[ShardOutput] = []
    start = ShardOutput.__init__

    def listed_start(self, *arguments):
        start(self, *arguments)
        known.append(self)

    monkeypatch.setattr(ShardOutput, "add", watched)
    monkeypatch.setattr(ShardOutput, "__init__", listed_start)
    task = make()
    assert run(task, out, alone).num_done == 31
    assert len(waiting) == 180
    assert max(waiting) <= 40
    assert 1 < max(open_at_once) <= 40
    assert [sample.key for sample in unpack(out / "large.tar")] == [
        f"d/k{number}" for number in range(150)
    ]
