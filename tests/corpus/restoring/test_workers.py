"""Worker processes read and write, and one process has the model: what comes out is the same."""

import errno
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from open_miipher.base.errors import UserError
from open_miipher.corpus.feeding import Workers
from open_miipher.corpus.recordings import Directory, Manifest
from open_miipher.corpus.restoring import Restore
from open_miipher.corpus.run import run
from open_miipher.corpus.tars import Groups
from open_miipher.distributed import StopSignal

sys.path.insert(0, str(Path(__file__).parents[1]))
from working import DyingDirectory, DyingWhileMeasured, FullDirectory, WordyDirectory


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


@pytest.fixture(autouse=True)
def _warm(warm_workers: None) -> None:
    """Have workers in a moment."""


def with_workers(task: Restore, workers: Workers) -> Restore:
    task._workers = workers
    return task


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".ledger" not in path.parts and path.name != "manifest.jsonl"
    }


def manifest(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("processing_seconds", None)
    return rows


def make_inputs(source: Path, write_audio) -> None:
    for number, seconds in enumerate([0.01, 0.3, 0.9, 1.0, 1.3, 2.2, 5.0, 0.5]):
        write_audio(source / f"{number % 3}/{number}.wav", seconds, rate=8000 + 8000 * (number % 2))
    write_audio(source / "stereo.flac", 3.1, channels=2)
    soundfile.write(source / "silent.wav", np.zeros(20000), 8000)
    (source / "broken.wav").write_bytes(b"RIFF no audio")
    cut = source / "cut.flac"
    write_audio(cut, 9.0, format="FLAC")
    data = bytearray(cut.read_bytes())
    data[20000:20400] = bytes(400)  # damage in the middle: found when it is read
    cut.write_bytes(data)


@pytest.mark.parametrize("level", ["match-input", "none", "peak"])
@pytest.mark.parametrize("channels", ["mono", "each"])
def test_workers_write_what_one_process_writes(
    source, tmp_path, write_audio, make_task, alone, workers, level, channels
) -> None:
    make_inputs(source, write_audio)
    options = {"level": level, "channels": channels, "format": "flac", "trust": True}
    plain = make_task(output_dir=tmp_path / "plain", **options)
    summary = run(plain, tmp_path / "plain", alone)
    other = with_workers(make_task(output_dir=tmp_path / "other", **options), workers)
    assert run(other, tmp_path / "other", alone) == summary
    assert contents(tmp_path / "other") == contents(tmp_path / "plain")
    assert manifest(tmp_path / "other") == manifest(tmp_path / "plain")
    assert summary.num_failed == 2


def test_a_batch_is_made_ready_while_another_is_restored(
    source, tmp_path, write_audio, make_task, alone, workers
) -> None:
    for number in range(4):
        write_audio(source / f"{number}.wav", 20.0)
    task = with_workers(make_task(output_dir=tmp_path / "out"), workers)
    model = task._setting.restorer.model
    restore, calls, met, second = model.restore, [], [], threading.Event()

    def waiting(*inputs):
        calls.append(None)
        if len(calls) == 2:
            second.set()
        met.append(second.wait(20))
        return restore(*inputs)

    model.restore = waiting
    assert run(task, tmp_path / "out", alone).num_failed == 0
    assert len(met) > 2
    assert all(met)  # by one thread, the first would have waited in vain


def test_shards_are_the_same_too(source, tmp_path, write_audio, make_task, alone, workers) -> None:
    make_inputs(source, write_audio)
    folders = tmp_path / "plain", tmp_path / "other"
    for folder in folders:
        task = make_task(shards=Groups(Directory(source), 4), output_dir=folder)
        run(with_workers(task, workers) if folder == folders[1] else task, folder, alone)
    assert contents(folders[1]) == contents(folders[0])
    assert manifest(folders[1]) == manifest(folders[0])


def test_a_model_that_normalises_by_the_whole_file_measures_it_for_the_workers(
    source, tmp_path, write_audio, make_task, alone, workers
) -> None:
    make_inputs(source, write_audio)
    write_audio(source / "long.wav", 40.0)

    def measure(blocks) -> Tensor:
        whole = np.concatenate(list(blocks), axis=1)
        return torch.tensor([[row.max(), row.min()] for row in whole])

    def restore(waveform, lengths, keys, starts, statistics=None) -> Tensor:
        return waveform if statistics is None else waveform * statistics[:, :1]

    folders = tmp_path / "plain", tmp_path / "other"
    for folder in folders:
        task = make_task(output_dir=folder, level="none", channels="each")
        model = task._setting.restorer.model
        model.needs_statistics, model.measure, model.restore = True, measure, restore
        run(with_workers(task, workers) if folder == folders[1] else task, folder, alone)
    assert contents(folders[1]) == contents(folders[0])


def test_a_worker_that_dies_costs_the_file_that_it_died_of_and_no_other(
    source, out, write_audio, make_task, alone, workers
) -> None:
    for number in range(12):
        write_audio(source / f"{number}.wav", 0.5)
    write_audio(source / "die.wav", 0.4)
    write_audio(source / "once.wav", 0.6)
    task = with_workers(make_task(recordings=DyingDirectory(source)), workers)
    summary = run(task, out, alone)
    assert (summary.num_done, summary.num_failed) == (13, 1)
    [failed] = [row for row in manifest(out) if row["error"] is not None]
    assert failed["input"] == "die.wav"
    assert "its worker process ended 3 times (signal 9" in failed["error"]
    assert len(contents(out)) == 13  # and nothing unfinished


def test_a_disk_that_refuses_ends_the_run_with_a_sentence_and_leaves_nothing_unfinished(
    source, out, write_audio, make_task, alone, workers
) -> None:
    for number in range(12):
        write_audio(source / f"{number}.wav", 0.5)
    write_audio(source / "full.wav", 0.4)
    task = with_workers(make_task(recordings=FullDirectory(source)), workers)
    with pytest.raises(UserError, match="no space left on its disk; what is done is kept"):
        run(task, out, alone)
    assert not list(out.rglob("*.tmp"))
    done = with_workers(make_task(recordings=Directory(source)), workers)
    assert run(done, out, alone).num_failed == 0
    assert len(contents(out)) == 13


def test_a_signal_lets_files_come_to_their_end(
    source, out, write_audio, make_task, alone, workers
) -> None:
    for number in range(200):
        write_audio(source / f"{number:03d}.wav", 0.5)
    task = with_workers(make_task(), workers)
    stop = StopSignal()
    process = task.process

    def stopping(items):
        for number, row in enumerate(process(items)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield row

    task.process = stopping
    summary = run(task, out, alone, stop=stop)
    assert summary.stopped == "SIGTERM"
    assert 4 <= summary.num_done < 150
    assert not list(out.rglob("*.tmp"))
    assert len(contents(out)) == summary.num_done
    again = run(with_workers(make_task(), workers), out, alone, stop=StopSignal())
    assert again.num_done == 200 - summary.num_done


def test_a_worker_that_dies_while_its_file_is_measured_costs_that_file(
    source, out, write_audio, make_task, alone, workers
) -> None:
    write_audio(source / "die.wav", 4.0)
    for number in range(4):
        write_audio(source / f"{number}.wav", 3.0)
    task = with_workers(make_task(recordings=DyingWhileMeasured(source)), workers)
    model = task._setting.restorer.model
    model.needs_statistics = True
    model.measure = lambda blocks: torch.tensor([[np.concatenate(list(blocks), axis=1).max()]])
    summary = run(task, out, alone)
    assert (summary.num_done, summary.num_failed) == (4, 1)


def test_neither_side_waits_for_ever_to_be_heard_by_the_other(
    source, out, write_audio, make_task, alone, workers
) -> None:
    write_audio(source / "long.wav", 60.0)
    for number in range(8):
        write_audio(source / f"{number}.wav", 0.5)
    recordings = WordyDirectory(source)
    task = with_workers(make_task(recordings=recordings, chunk_seconds=20.0), workers)
    model = task._setting.restorer.model
    model.needs_statistics = True
    model.measure = lambda blocks: torch.tensor([[np.concatenate(list(blocks), axis=1).max()]])

    def waited(*_: object) -> None:
        raise AssertionError("they wait")  # a TimeoutError would pass for a dead worker

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    try:
        assert run(task, out, alone).num_done == 9
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_workers_are_not_sent_the_whole_manifest(
    source, tmp_path, write_audio, make_task, alone, workers, monkeypatch
) -> None:
    write_audio(source / "a.wav", 60.0)
    lines = [{"audio_filepath": "a.wav", "offset": n / 20, "duration": 0.05} for n in range(400)]
    (source / "all.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    task = with_workers(make_task(recordings=Manifest(source / "all.jsonl")), workers)
    restore, sizes = workers.restore, []

    def sized(build, *rest):
        sizes.append(len(pickle.dumps(build)))
        return restore(build, *rest)

    monkeypatch.setattr(workers, "restore", sized)
    assert run(task, tmp_path / "out", alone).num_done == 400
    assert sizes[0] < 5000


def test_memory_that_cannot_be_shared_is_told_with_what_does_without(
    source, out, write_audio, make_task, alone, workers, monkeypatch
) -> None:
    write_audio(source / "a.wav", 0.5)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("open_miipher.corpus.line.mmap.mmap", refuse)
    with pytest.raises(
        UserError, match=r"\(Cannot allocate memory\); --num-workers 0 does without"
    ):
        run(with_workers(make_task(), workers), out, alone)
