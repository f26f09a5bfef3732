"""Shards in, shards out, and what goes wrong: damage, a full disk, a lost store, a signal."""

import io
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.run import run
from open_miipher.corpus.status import failures, survey
from open_miipher.corpus.tars import Groups
from open_miipher.corpus.verify import verify
from open_miipher.shards import (
    Sample,
    ShardWriter,
    Storage,
    StorageError,
    read_index,
)

sys.path.insert(0, str(Path(__file__).parent))
from packed import audio, files, listed, pack, speech, unpack


def test_a_broken_sample_is_left_out_and_told(source, out, make, alone):
    pack(
        source / "x.tar",
        [
            speech(0),
            Sample("bad", {"flac": b"no audio", "txt": b"t"}),
            Sample("none", {"txt": b"t"}),
            Sample("cut", {"wav": audio(format="wav")[:-300]}),
            Sample("pair", {"a.flac": audio(), "b.flac": audio(channels=2)[:90]}),
            speech(1),
        ],
    )
    pack(source / "y.tar", [Sample("bad", {"flac": b"no audio"})])
    pack(source / "z.tar", [speech(2)])
    summary = run(make(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 2, 3)
    assert files(out) == ["manifest.jsonl", "x.tar", "z.tar"]
    assert [sample.key for sample in unpack(out / "x.tar")] == ["d/k0", "none", "d/k1"]
    errors = {row["input"]: row["error"] for row in listed(out) if row["error"] is not None}
    assert sorted(errors) == [
        *("x.tar/bad.flac", "x.tar/cut.wav", "x.tar/pair.b.flac", "y.tar/bad.flac")
    ]
    assert "x.tar/cut.wav is truncated" in errors["x.tar/cut.wav"]
    rows = Ledger(out).rows()
    assert "3 samples of x.tar failed: x.tar/bad.flac" in rows["x.tar"]["error"]
    assert (rows["x.tar"]["num_samples"], rows["x.tar"]["num_failed"]) == (2, 3)
    assert rows["x.tar"]["num_carried"] == 1
    assert rows["y.tar"]["output"] is None
    summary = run(make(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (0, 2, 3)
    assert verify(Ledger(out), 1, is_running=False, shown=False) == []
    pack(source / "y.tar", [speech(5)])
    assert run(make(), out, alone).num_done == 1


def test_a_pattern_that_was_mistyped_and_mended_leaves_no_failures(source, out, make, alone):
    for number in range(3):
        bad = [Sample("bad", {"flac": b"no"})] if number == 2 else []
        pack(source / f"{number}.tar", [speech(number), *bad])
    summary = run(make(source / "{0..9}.tar"), out, alone)
    assert (summary.num_done, summary.num_failed) == (2, 8)
    assert sum("does not exist" in row["error"] for row in failures(Ledger(out))) == 7
    summary = run(make(source / "{0..2}.tar"), out, alone)
    assert (summary.num_done_before, summary.num_failed) == (2, 1)
    seen = survey(Ledger(out))
    assert (seen.num_inputs, seen.num_done, seen.num_failed, seen.num_gone) == (3, 2, 1, 7)
    assert [row["input"] for row in failures(Ledger(out))] == ["2.tar/bad.flac"]
    assert {row["input"].partition("/")[0] for row in listed(out)} == {"0.tar", "1.tar", "2.tar"}
    whole = make(source / "{0..1}.tar")
    assert run(whole, out, alone).exit_code == 0


def test_what_is_no_audio_is_carried_along_in_its_place(source, out, make, alone):
    """As in the archives of LibriSpeech and others."""
    members = [
        ("Corpus/LICENSE", b"free"),
        ("Corpus/README.TXT", b"read me"),
        ("Corpus/19/19-0.flac", audio()),
        ("Corpus/19/._19-0.txt", b"of a Mac"),
        ("Corpus/19/19-0.txt", b"words"),
        ("Corpus/19/19.trans.txt", b"19-0 words"),
    ]
    with tarfile.open(source / "c.tar.gz", "w:gz") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    summary = run(make(), out, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 0, 0)
    assert summary.num_carried == 4
    with tarfile.open(out / "c.tar") as tar:
        held = {m.name: tar.extractfile(m).read() for m in tar if m.name != "__index__"}
    wanted = {**dict(members), "Corpus/19/19-0.wav": held["Corpus/19/19-0.wav"]}
    del wanted["Corpus/19/19-0.flac"]
    assert held == wanted
    assert [row["input"] for row in listed(out)] == ["c.tar.gz/Corpus/19/19-0.flac"]
    seen = survey(Ledger(out)).samples
    assert (seen.num_made, seen.num_failed, seen.num_carried) == (1, 0, 4)
    assert verify(Ledger(out), 1, is_running=False, shown=False) == []
    storage = Storage()
    index = read_index(storage, str(out / "c.tar"))
    keys = [index.read(storage, number).key for number in range(len(index))]
    assert keys == ["Corpus/README", "Corpus/19/19-0", "Corpus/19/19"]


@pytest.mark.parametrize(
    ("members", "member", "says"),
    [
        ({"gsm": b"x", "txt": b"t"}, None, "has no audio that is read, but gsm; convert it"),
        ({"npy": b"x", "txt": b"t"}, None, "has no audio among its members npy, txt"),
        ({"flac": b"x", "txt": b"t"}, "noisy.flac", "has no member noisy.flac"),
        ({"txt": b"t"}, None, "x.tar holds no audio, but 1 other members"),
        ({"txt": b"t"}, "flac", "x.tar holds no audio, but 1 other members"),
    ],
)
def test_what_may_have_been_meant_as_audio_is_a_failure(
    source, out, make, alone, members, member, says
):
    pack(source / "x.tar", [Sample("a", members)])
    summary = run(make(member=member), out, alone)
    assert (summary.num_failed, files(out)) == (1, ["manifest.jsonl"])
    assert says in listed(out)[0]["error"]


@pytest.mark.parametrize("share", [0.35, 0.7, 0.999])
def test_what_comes_before_the_damage_is_kept(source, out, make, alone, share):
    samples = [speech(number) for number in range(12)]
    whole = pack(source / "x.tar", samples).read_bytes()
    pack(source / "y.tar", [speech(20)])
    used = whole.rindex(b"__index__")
    (source / "x.tar").write_bytes(whole[: int(share * used)])
    summary = run(make(), out, alone)
    assert (summary.num_done, summary.num_failed) == (1, 1)
    kept = [sample.key for sample in unpack(out / "x.tar")]
    assert kept == [sample.key for sample in samples[: len(kept)]]
    assert len(kept) >= int(12 * share) - 2
    last = listed(out)[len(kept)]
    assert (last["input"], last["output"]) == ("x.tar", None)
    assert "x.tar cannot be read as a shard" in last["error"]
    assert verify(Ledger(out), 1, is_running=False, shown=False) == []


def test_malformed_shards_are_one_sentence_each(source, out, make, alone):
    pack(source / "good.tar", [speech(0)])
    pack(source / "none.tar", [])
    (source / "empty.tar").touch()
    with tarfile.open(source / "out.tar", "w") as tar:
        for name in ("a.flac", "../b.flac"):
            header = tarfile.TarInfo(name)
            data = audio()
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    with tarfile.open(source / "link.tar", "w") as tar:
        header = tarfile.TarInfo("a.flac")
        header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(header)
    missing = source / "missing.tar"
    summary = run(make(source, missing), out, alone)
    assert (summary.num_done, summary.num_failed) == (1, 5)
    errors = {row["id"]: row["error"] for row in Ledger(out).rows().values() if row["error"]}
    assert errors["none.tar"] == "none.tar holds no audio"
    assert "empty.tar cannot be read as a shard" in errors["empty.tar"]
    assert "leads out of the shard" in errors["out.tar"]
    assert "is a link" in errors["link.tar"]
    assert errors["missing.tar"] == f"{missing} does not exist"
    assert not (out.parent / "b.wav").exists()
    text, status = make(source, missing).preview(overwrite=True)
    assert status == 3
    assert "shards:      6 (0 done before, 5 to restore, 1 unreadable" in text


def test_leftovers_of_a_killed_run_are_removed(source, out, make, alone):
    pack(source / "d/x.tar", [speech(0)])
    pack(source / "y.tar", [speech(1)])
    (out / "d").mkdir(parents=True)
    (out / "d/.x.tar.77.tmp").write_bytes(b"half")
    samples = out / ".ledger/samples/d"
    samples.mkdir(parents=True)
    (samples / ".x.tar.jsonl.77.tmp").write_bytes(b"half")
    run(make(), out, alone)
    assert [path for path in out.rglob("*") if ".tmp" in path.name] == []


def test_a_shard_with_a_long_name_is_restored(source, out, make, alone):
    name = f"{'n' * 236}.tar"
    pack(source / name, [speech(0)])
    pack(source / "y.tar", [speech(1)])
    run(make(), out, alone)
    assert (out / name).stat().st_size > 0
    assert [path for path in out.rglob("*") if ".tmp" in path.name] == []


def test_files_and_shards_are_never_mixed(source, out, make_task, alone):
    (source / "a.wav").write_bytes(audio(format="wav"))
    run(make_task(), out, alone)
    with pytest.raises(UserError, match="outputs was None and is shards"):
        run(make_task(shards=Groups(Directory(source), 2)), out, alone)


def test_inputs_and_outputs_lie_apart(source, out, make, make_task, alone):
    pack(source / "x.tar", [speech(0)])
    with pytest.raises(UserError, match="lies in the input"):
        make(output_dir=source / "restored")
    pack(out / "y.tar", [speech(0)])
    with pytest.raises(UserError, match="lies in the output directory"):
        run(make(source / "x.tar", out / "y.tar"), out, alone)
    with pytest.raises(UserError, match="1 or more"):
        Groups(Directory(source), 0)
    with pytest.raises(UserError, match="holds no shards"):
        run(make(source / "no*.tar"), out.with_name("other"), alone)


def test_a_full_disk_ends_the_run_and_leaves_no_half_shard(source, out, make, alone, monkeypatch):
    for number in range(3):
        pack(source / f"{number}.tar", [speech(number), speech(number + 10)])
    add = ShardWriter.add
    written = []

    def full(self, sample):
        written.append(sample.key)
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        add(self, sample)

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(UserError, match=r"\.tar cannot be written: No space left.*is kept"):
        run(make(), out, alone)
    monkeypatch.undo()
    assert len([name for name in files(out) if name.endswith(".tar")]) == 1
    assert [path for path in out.rglob("*") if ".tmp" in path.name] == []
    again = make(output_dir=out)
    shutil.rmtree(out / ".ledger/samples")
    (out / "manifest.jsonl").unlink()
    assert run(again, out, alone, overwrite=True).num_done == 3
    assert len(listed(out)) == 6


def test_verify_finds_every_damage(source, out, make, alone):
    for number in range(6):
        pack(source / f"{number}.tar", [speech(number), speech(number + 10)])
    run(make(), out, alone)
    assert verify(Ledger(out), 2, is_running=False, shown=False) == []
    (out / "0.tar").unlink()
    (out / "1.tar").write_bytes((out / "1.tar").read_bytes()[:-20000])
    kept = unpack(out / "2.tar")
    pack(out / "2.tar", kept[:1])
    silent = io.BytesIO()
    soundfile.write(silent, np.zeros(1600), 8000, format="wav")
    pack(out / "3.tar", [kept[0], Sample("d/k13", {"wav": silent.getvalue(), "txt": b""})])
    pack(out / "extra.tar", kept)
    with (out / "5.tar").open("ab") as file:
        file.write(bytes(512))
    wrong = {
        (entry.item, entry.problem.replace(str(out), ""))
        for entry in verify(Ledger(out), 2, is_running=False, shown=False)
    }
    found = {item: problem for item, problem in wrong}
    assert set(found) == {"0.tar", "1.tar", "2.tar", "3.tar", "5.tar", None}
    assert found["0.tar"] == "/0.tar is missing"
    assert "cannot be read as a shard" in found["1.tar"]
    assert found["2.tar"] == "/2.tar/d/k12.wav is missing"
    assert ("3.tar", "/3.tar/d/k3.wav is missing") in wrong
    assert any("its level is digital silence" in problem for _, problem in wrong)
    assert "bytes and had" in found["5.tar"]
    assert found[None] == "/extra.tar is no output of this restoration"
    (out / "manifest.jsonl").write_text("")
    wrong = verify(Ledger(out), 2, is_running=False, shown=False)
    assert "lacks 12 outputs" in wrong[-1].problem


def test_a_store_that_is_lost_ends_the_run_and_keeps_what_is_done(
    source, out, make, alone, monkeypatch
):
    for number in range(4):
        pack(source / f"{number}.tar", [speech(number), speech(number + 10)])
    task = make()
    opened: list[str] = []
    really_open = Storage.open

    def lost(self, url):
        opened.append(url)
        if len(opened) == 3:
            raise StorageError("the store cannot be reached")
        return really_open(self, url)

    process = task.process

    def in_bad_times(items):
        monkeypatch.setattr(Storage, "open", lost)
        return process(items)

    monkeypatch.setattr(task, "process", in_bad_times)
    with pytest.raises(UserError, match="the store cannot be reached; what is done is kept"):
        run(task, out, alone)
    monkeypatch.undo()
    assert [path for path in out.rglob("*.tmp")] == []
    done = len([name for name in files(out) if name.endswith(".tar")])
    other = make(output_dir=out.with_name("whole"))
    assert run(other, out.with_name("whole"), alone).num_done == 4
    assert done < 4
    assert all(
        (out / name).read_bytes() == (out.with_name("whole") / name).read_bytes()
        for name in files(out)
        if name.endswith(".tar")
    )


def test_an_output_that_is_older_than_its_failed_input_is_found(
    source, out, make, make_task, alone
):
    pack(source / "x.tar", [speech(0)])
    run(make(), out, alone)
    pack(source / "x.tar", [Sample("k", {"flac": b"no"})])
    assert run(make(), out, alone).num_failed == 1
    wrong = verify(Ledger(out), 1, is_running=False, shown=False)
    assert [entry.problem.rpartition("/")[2] for entry in wrong] == [
        "x.tar is older than its input, which failed since"
    ]
    recordings, other = source.with_name("files"), out.with_name("other")
    recordings.mkdir()
    for text in (audio(format="wav"), b"no"):
        (recordings / "a.wav").write_bytes(text)
        groups = Groups(Directory(recordings), 2)
        run(make_task(shards=groups, output_dir=other), other, alone)
    wrong = verify(Ledger(other), 1, is_running=False, shown=False)
    assert [entry.problem.rpartition("/")[2] for entry in wrong] == [
        "restored-000000.tar is older than its input, which failed since"
    ]


def test_a_signal_gives_up_the_shard_under_way(source, out, make, alone):
    for number in range(3):
        pack(source / f"{number}.tar", [speech(k) for k in range(60 * number, 60 * number + 60)])
    task = make()
    model = task._setting.restorer.model
    restore = model.restore

    def interrupted(*arguments):
        if model.num_restored == 80:
            os.kill(os.getpid(), signal.SIGTERM)
        return restore(*arguments)

    model.restore = interrupted
    summary = run(task, out, alone)
    assert (summary.stopped, summary.num_done, summary.exit_code) == ("SIGTERM", 1, 4)
    assert len([name for name in files(out) if name.endswith(".tar")]) == 1
    assert not list(out.rglob("*.tmp"))
    assert run(make(), out, alone).num_done == 2
    assert len(listed(out)) == 180
