"""Shards from raw collections: the same whoever makes them, and what is damaged is named."""

import json
import os
import signal
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.pool import WorkerError
from open_miipher.corpus.preprocessing.inputs import unit_name
from open_miipher.corpus.preprocessing.task import Preprocess
from open_miipher.corpus.run import run
from open_miipher.index import Entry, write_index

from .conftest import (
    RATE,
    encode,
    files_of,
    make_directory,
    make_tar,
    pack_tar,
    samples_of,
    speech,
    waveforms_of,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from working import Doing, FullDisk


def test_texts_beside_the_audio_are_counted_and_no_failure(tmp_path, preprocess, capfd):
    texts = [(f"Corpus/{name}", b"x") for name in ("LICENSE.TXT", "README", "19.trans.txt")]
    path = pack_tar(tmp_path / "raw/a.tar", [*texts, ("Corpus/19-0.flac", encode(speech(0, 0.5)))])
    for num_done in (1, 0):
        folder, summary = preprocess(f"data.train.urls=[{path}]")
        assert (summary.num_done, summary.num_failed, summary.exit_code) == (num_done, 0, 0)
        told = json.loads((folder / "summary.json").read_text())
        assert (told["files"], told["unreadable"], told["passed_over"]) == (1, 0, 3)
    assert "1 file of 0.5 s, 0 unreadable, 3 members without audio passed over" in (
        capfd.readouterr().out
    )


def test_shards_that_were_moved_away_are_not_made_again(tmp_path, preprocess):
    given = f"data.train.urls=[{make_tar(tmp_path / 'a.tar', 3)}]"
    folder, _ = preprocess(given)
    for path in folder.glob("*.tar"):
        path.unlink()
    _, summary = preprocess(given, "preprocess.outputs_elsewhere=true")
    assert (summary.num_done, summary.num_done_before) == (0, 1)
    assert json.loads((folder / "summary.json").read_text())["files"] == 3
    assert preprocess(given)[1].num_done == 1


def test_every_file_is_in_the_shards_once(tmp_path, preprocess):
    make_tar(tmp_path / "raw/a.tar")
    make_tar(tmp_path / "raw/more/a.tar.gz", seed=1, mode="w:gz")
    folder, summary = preprocess(f"data.train.urls=[{tmp_path / 'raw'}]")
    assert folder == tmp_path / "out/w/train/0"
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (2, 0, 0)
    samples = samples_of(folder)
    parts = [json.loads(s.members["names.json"]) for s in samples.values()]
    taken: dict[str, float] = {}
    for part in (p for ps in parts for p in ps):
        taken[part["name"]] = taken.get(part["name"], 0.0) + part["seconds"] / 2  # of both tars
    expected = {f"utt{k:03d}.flac": min(1.0, 0.4 + 0.25 * k) for k in range(7)}
    assert taken == pytest.approx(expected)
    for key, sample in samples.items():
        assert key.startswith("train-a-")
        assert list(sample.members) == [
            "input_wav.npy", "noisy_input_wav.npy", "sr.index", "names.json", "degradations.json",
        ]  # fmt: skip
        drawn = json.loads(sample.members["degradations.json"])
        assert len(drawn) == len(json.loads(sample.members["names.json"]))
    lengths = [len(waveform) for waveform in waveforms_of(folder)]
    assert lengths == [RATE] * 5 + lengths[5:6] + [RATE] * 5 + lengths[5:6]
    assert waveforms_of(folder)[0].dtype == np.float32
    told = json.loads((folder / "summary.json").read_text())
    assert told["files"] == 14
    assert told["samples"] == len(samples) == 12
    assert told["output_seconds"] == pytest.approx(sum(expected.values()) * 2, abs=0.01)
    counted = [{d["name"] for d in ds} for s in parts_of(samples) for ds in s.values()]
    for name, count in told["degradations"].items():
        assert count == sum((name in c) if name != "none" else not c for c in counted)


def parts_of(samples) -> list[dict]:
    """What was drawn for each file, by its place, over the pieces it was cut into."""
    found: dict[str, dict] = {}
    for key, sample in samples.items():
        names = json.loads(sample.members["names.json"])
        drawn = json.loads(sample.members["degradations.json"])
        unit = key.rpartition("-")[0]
        for name, stages in zip(names, drawn, strict=True):
            found.setdefault(unit, {})[name["name"]] = stages
    return list(found.values())


def test_the_clean_side_without_degradations_is_the_file(tmp_path, preprocess):
    root = make_directory(tmp_path / "speech", rate=2 * RATE)
    off = "data.degradation.max_stages=0"
    folder, _ = preprocess(
        f"data.train.dir_list=[{root}]", "preprocess.crops=all", off, "data.low_cut_hz=null",
        "data.crop_seconds=9", "preprocess.audio_format=flac",
    )  # fmt: skip
    clean = np.concatenate(waveforms_of(folder, "input_wav.flac"))
    assert np.array_equal(clean, np.concatenate(waveforms_of(folder, "noisy_input_wav.flac")))
    whole = [soundfile.read(root / f"{k}.wav", dtype="float32")[0] for k in range(7)]
    whole = [resample(waveform, 2 * RATE, RATE) for waveform in whole]
    whole = [0.9 * waveform / np.abs(waveform).max() for waveform in whole]
    assert np.allclose(clean, np.concatenate(whole), atol=2e-4)


def test_equal_shards_whoever_makes_them(tmp_path, preprocess):
    root, tar = make_directory(tmp_path / "speech"), make_tar(tmp_path / "a.tar", seed=2)
    given = [f"data.train.dir_list=[{root}]", f"data.train.urls=[{tar}]"]
    whole = files_of(preprocess(*given)[0])
    assert len(whole) > 3
    folder, summary = preprocess(*given, "preprocess.num_writers=3", "preprocess.job_id=three")
    assert files_of(folder) == whole
    assert summary.num_done > 2
    for shard in (ArrayTask(2, 1), ArrayTask(2, 0)):
        folder, _ = preprocess(*given, "preprocess.job_id=array", array_task=shard)
    assert files_of(folder) == whole
    assert json.loads((folder / "summary.json").read_text())["shards"] == len(whole)
    assert files_of(preprocess(*given, "preprocess.job_id=7", "preprocess.seed=1")[0]) != whole


def test_what_is_done_is_not_made_again_and_what_changed_is(tmp_path, preprocess):
    first, second = make_tar(tmp_path / "a.tar"), make_tar(tmp_path / "b.tar", 3, seed=1)
    folder, _ = preprocess(f"data.train.urls=[{first}]")
    before = files_of(folder)
    folder, summary = preprocess(f"data.train.urls=[{first},{second}]")
    assert summary.num_done == 1
    make_tar(first, 2)
    folder, summary = preprocess(f"data.train.urls=[{first},{second}]")
    assert summary.num_done == 1
    now = files_of(folder)
    assert sum(name.startswith("a-") for name in before) == 2
    assert sum(name.startswith("a-") for name in now) == 1  # nothing of the old one is left
    removed = next(folder.glob("b-*.tar"))
    removed.unlink()
    assert preprocess(f"data.train.urls=[{first},{second}]")[1].num_done == 1
    assert files_of(folder) == now
    with pytest.raises(UserError, match=r"b-.*\.tar comes from an input that is not given now"):
        preprocess(f"data.train.urls=[{first}]")
    with pytest.raises(UserError, match=r"seed was 0 and is 1.*\(preprocess.overwrite=true\)$"):
        preprocess(f"data.train.urls=[{first},{second}]", "preprocess.seed=1")
    folder, summary = preprocess(
        f"data.train.urls=[{first},{second}]", "preprocess.seed=1", "preprocess.overwrite=true"
    )
    assert summary.num_done == 2
    assert set(files_of(folder)) == set(now)
    assert all(files_of(folder)[name] != data for name, data in now.items())


def test_degradations_that_fail_too_often_stop_the_run(tmp_path, preprocess, monkeypatch):
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    soundfile.write(rooms / "silent.wav", np.zeros(100), RATE)
    write_index(rooms, [Entry("silent.wav", RATE, 100, 1)])
    tar = make_tar(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"degradations failed in .* the last: reverb: .*silent"):
        preprocess(
            f"data.train.urls=[{tar}]", f"data.train.rir_dir_list=[{rooms}]",
            "data.degradation.stages.reverb.probability=1",
        )  # fmt: skip


def test_noise_that_became_unreadable_stops_the_run(tmp_path, tasks, alone, monkeypatch):
    monkeypatch.setattr("open_miipher.data.decoded._MOST_FILES", 0)  # as of a large corpus
    noise, tar = make_directory(tmp_path / "noise", 1), make_tar(tmp_path / "a.tar")
    given = [
        f"data.train.urls=[{tar}]", f"data.train.noise_dir_list=[{noise}]",
        "data.degradation.stages.noise.probability=1",
    ]  # fmt: skip
    folder, task = next(iter(tasks(*given).items()))
    (noise / "0.wav").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"0\.wav.*what is done is kept"):
        run(task, folder, alone)
    assert not list(folder.glob("*.tar"))


def test_another_noise_is_another_configuration(tmp_path, preprocess):
    noise, tar = make_directory(tmp_path / "noise", 2), make_tar(tmp_path / "a.tar")
    given = [f"data.train.urls=[{tar}]", f"data.train.noise_dir_list=[{noise}]"]
    preprocess(*given)
    make_directory(noise, 3)
    with pytest.raises(UserError, match=r"made otherwise \(noise was"):
        preprocess(*given)


def test_files_that_killed_runs_left_are_removed(tmp_path, preprocess):
    first, second = make_tar(tmp_path / "a.tar"), make_tar(tmp_path / "b.tar", seed=1)
    folder, _ = preprocess(f"data.train.urls=[{first},{second}]")
    whole = files_of(folder)
    lines = (folder / ".ledger/rank-00000.jsonl").read_text().splitlines()
    kept = next(line for line in lines if json.loads(line)["id"] == str(first))
    (folder / ".ledger/rank-00000.jsonl").write_text(f"{kept}\n{kept[:50]}")  # torn
    temporary = folder / f".{next(folder.glob('b-*.tar')).name}.123.tmp"
    temporary.write_bytes(b"half")
    foreign = folder / ".something.tar.123.tmp"
    foreign.touch()
    _, summary = preprocess(f"data.train.urls=[{first},{second}]")
    assert summary.num_done == 1
    assert files_of(folder) == whole
    assert not temporary.exists()
    assert foreign.exists()


def test_a_signal_gives_up_what_is_under_way(tmp_path, tasks, alone, wait_until):
    for name in ("0", "wait", "2", "3"):
        make_tar(tmp_path / f"raw/{name}.tar", seed=ord(name[0]))
    given = [f"data.train.urls=[{tmp_path / 'raw'}]"]
    folder, task = next(iter(tasks(*given).items()))
    task.build = Doing(tmp_path, task.make)
    waiting = Thread(
        target=lambda: (
            wait_until(lambda: "wait" in log_of(tmp_path)),
            os.kill(os.getpid(), signal.SIGTERM),
        )
    )
    waiting.start()
    summary = run(task, folder, alone)
    waiting.join()
    assert summary.stopped == "SIGTERM"
    assert summary.exit_code == 4
    assert "wait" not in {name.partition("-")[0] for name in files_of(folder)}
    left = 4 - summary.num_done
    assert run(tasks(*given)[folder], folder, alone).num_done == left > 0
    other = f"preprocess.output_root={tmp_path / 'other'}"
    other_folder, other_task = next(iter(tasks(*given, other).items()))
    run(other_task, other_folder, alone)
    assert files_of(folder) == files_of(other_folder)


def log_of(folder) -> list[str]:
    return (folder / "log").read_text().split() if (folder / "log").exists() else []


def test_a_worker_that_dies_costs_its_unit_and_no_other(
    tmp_path, tasks, preprocess, alone, monkeypatch
):
    for name in ("a", "die", "once"):
        make_tar(tmp_path / f"raw/{name}.tar", 3)
    given = f"data.train.urls=[{tmp_path / 'raw'}]"
    folder, task = next(iter(tasks(given).items()))
    task.build = Doing(tmp_path, task.make)
    leftover = folder / f".{unit_name(str(tmp_path / 'raw/die.tar'))}-00000.tar.99.tmp"
    plan = Preprocess.plan

    def planned(self, ledger):
        found = plan(self, ledger)
        leftover.touch()  # as if the worker had begun a shard
        return found

    monkeypatch.setattr(Preprocess, "plan", planned)
    summary = run(task, folder, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (2, 1, 3)
    told = json.loads((folder / "summary.json").read_text())
    assert told["problems"] == [
        f"{tmp_path}/raw/die.tar: its worker process ended 3 times (signal 9; is memory short?)"
    ]
    assert not leftover.exists()
    assert preprocess(given)[1].num_failed == 1  # not tried again until it is asked for
    ledger = Ledger(folder)
    ledger.claim(task.identity)
    ledger.forget({str(tmp_path / "raw/die.tar"): {}})
    del ledger
    assert preprocess(given)[1].num_done == 1
    assert files_of(folder) == files_of(preprocess(given, "preprocess.job_id=new")[0])


def test_a_full_disk_is_one_sentence(tmp_path, tasks, alone):
    tar = make_tar(tmp_path / "a.tar")
    folder, task = next(iter(tasks(f"data.train.urls=[{tar}]").items()))
    task.build = FullDisk(task.make)
    with pytest.raises(
        UserError, match=r"a-.*\.tar: No space left on device; what is done is kept"
    ):
        run(task, folder, alone)


def test_a_fault_of_ours_keeps_its_place(tmp_path, tasks, alone):
    tar = make_tar(tmp_path / "full.tar")
    folder, task = next(iter(tasks(f"data.train.urls=[{tar}]").items()))
    task.build = Doing(tmp_path)
    with pytest.raises(WorkerError, match=r"(?s)Traceback.*in do.*OSError.*No space"):
        run(task, folder, alone)


def test_an_error_of_the_work_is_not_said_to_be_the_ledgers(tmp_path, tasks, alone, monkeypatch):
    folder, task = next(iter(tasks(f"data.train.urls=[{make_tar(tmp_path / 'a.tar')}]").items()))

    def broken(items):
        next(items)
        raise BrokenPipeError(32, "Broken pipe")
        yield

    monkeypatch.setattr(task, "process", broken)
    with pytest.raises(BrokenPipeError):
        run(task, folder, alone)


def test_every_channel_is_taken_where_all_crops_are(tmp_path, preprocess):
    root = tmp_path / "speech"
    root.mkdir()
    waveform = np.stack([speech(0, 1.5), 0.5 * speech(1, 1.5)], axis=1)
    soundfile.write(root / "two.wav", waveform, RATE)
    write_index(root, [Entry("two.wav", RATE, len(waveform), 2)])
    folder, _ = preprocess(
        f"data.train.dir_list=[{root}]", "preprocess.crops=all", "data.low_cut_hz=null",
        "data.degradation.max_stages=0", "data.crop_seconds=0.4",
    )  # fmt: skip
    made = np.concatenate(waveforms_of(folder))
    read = soundfile.read(root / "two.wav", dtype="float32")[0].T.reshape(-1)
    assert np.allclose(made, 0.9 * read / np.abs(read).max(), atol=1e-4)
    assert json.loads((folder / "summary.json").read_text())["output_seconds"] == 3.0
