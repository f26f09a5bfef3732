"""Spans of files at another rate, and files that are not what the index says."""

import os
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.audio import io
from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.data.files import Files
from open_miipher.index import Entry, read_index, write_index


def noise(num_frames: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_frames)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22051, 24000, 44100, 48000, 96000])
def test_a_span_equals_the_whole_file_resampled(rate, make_dir):
    waveform = noise(3 * rate + 17)
    file = Files([make_dir("speech", {"a.wav": (waveform, rate)})])[0]
    whole = resample(waveform, rate, 24000)
    total = file.num_samples(24000)
    assert total == len(whole)
    for start, length in [(0, 500), (1, 7000), (23456, 24000), (total - 1, 1), (0, total)]:
        span = file.read(0, start, length, 24000)
        assert span.shape == (length,)
        assert span.dtype == np.float32
        assert np.abs(span - whole[start : start + length]).max() < 1e-4


def test_a_tone_lies_where_it_should(make_dir):
    times = np.arange(4 * 44100) / 44100
    tone = np.sin(2 * np.pi * 440 * times).astype(np.float32)
    file = Files([make_dir("speech", {"a.wav": (tone, 44100)})])[0]
    expected = np.sin(2 * np.pi * 440 * (np.arange(24000) + 50000) / 24000)
    assert np.allclose(file.read(0, 50000, 24000, 24000), expected, atol=1e-4)


def test_only_the_span_is_decoded(make_dir, monkeypatch):
    file = Files([make_dir("speech", {"a.flac": (noise(480000), 48000)})])[0]
    asked = []
    monkeypatch.setattr(
        "open_miipher.data.files.read",
        lambda path, start, frames: asked.append(frames) or io.read(path, start, frames),
    )
    file.read(0, 100000, 24000, 24000)
    assert asked[0] <= 48000 + 2 * 2400 + 2


def test_each_channel(make_dir):
    stereo = np.stack([noise(1000, 1), noise(1000, 2)], axis=1)
    file = Files([make_dir("speech", {"a.wav": (stereo, 24000)})])[0]
    assert np.array_equal(file.read(1, 100, 50, 24000), stereo[100:150, 1])
    rng = np.random.default_rng(0)
    assert {file.draw_channel(rng) for _ in range(20)} == {0, 1}


def test_several_directories_are_one_list(make_dir):
    first = make_dir("one", {f"{k}.wav": (noise(100), 24000) for k in range(3)})
    second = make_dir("two", {f"{k}.wav": (noise(100), 24000) for k in range(2)})
    files = Files([first, second])
    assert len(files) == 5
    names = [files[k].name for k in range(5)]
    assert names == ["one/0.wav", "one/1.wav", "one/2.wav", "two/0.wav", "two/1.wav"]
    assert files.fingerprint != Files([second, first]).fingerprint
    assert files.fingerprint == Files([first, second]).fingerprint


def test_a_missing_directory_or_file_is_named(make_dir, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a directory"):
        Files([str(tmp_path / "nowhere")])
    root = make_dir("speech", {"a.wav": (noise(100), 24000)})
    (tmp_path / "speech/a.wav").unlink()
    with pytest.raises(UserError, match=r"a\.wav"):
        Files([root])


def test_the_first_rank_of_a_machine_verifies_for_all(make_dir, tmp_path, monkeypatch):
    root = make_dir("speech", {"a.wav": (noise(100), 24000)})
    (tmp_path / "speech/a.wav").unlink()
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(Files([root])) == 1
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", "0")
    for _ in range(2):  # what was found wrong is not taken as verified
        with pytest.raises(UserError, match=r"a\.wav"):
            Files([root])


def test_sixty_four_ranks_on_eight_machines_read_every_header_once_a_machine(make_dir, monkeypatch):
    root = make_dir("speech", {f"{k}.wav": (noise(100), 24000) for k in range(5)})
    readers = []

    def counted(path):
        readers.append(int(os.environ["RANK"]))
        return io.read_header(path)

    monkeypatch.setattr("open_miipher.index.verify.read_header", counted)
    monkeypatch.setenv("WORLD_SIZE", "64")
    for rank in range(64):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank % 8))
        monkeypatch.setattr("open_miipher.data.files._verified", set())  # a process of its own
        assert len(Files([root])) == 5
    assert Counter(readers) == dict.fromkeys(range(0, 64, 8), 5)


def test_a_directory_is_verified_once(make_dir, monkeypatch):
    root = make_dir("speech", {"a.wav": (noise(100), 24000)})
    looked_at = []
    monkeypatch.setattr("open_miipher.data.files.verify_index", looked_at.append)
    Files([root, root])
    Files([f"{root}/../speech"])
    assert len(looked_at) == 1
    make_dir("speech", {"a.wav": (noise(200), 24000)})
    Files([root])
    assert len(looked_at) == 2


@pytest.mark.slow
def test_a_worker_that_reads_many_entries_does_not_grow(tmp_path):
    """Entries that lie in memory as objects would be copied for their reference counts."""
    num_files = 200_000
    write_index(tmp_path, [Entry(f"{k:07d}.flac", 24000, 1 + k, 1) for k in range(num_files)])
    index = read_index(tmp_path)

    def unshared() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        # Pages of the mapped file that nobody else has looked at yet are clean.
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    def work(results) -> None:
        index[0]
        before = unshared()
        for number in range(0, num_files, 4):
            index[number]
        results.send(unshared() - before)

    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(sender,))
    worker.start()
    grown = receiver.recv()
    worker.join()
    assert grown < 2000, f"{grown} KiB"


@pytest.mark.parametrize("change", ["gone", "shorter", "rate", "channels", "text"])
def test_a_file_that_changed_later_is_named_with_the_mend(change, make_dir, tmp_path):
    file = Files([make_dir("speech", {"a.wav": (noise(1000), 24000)})])[0]
    path = tmp_path / "speech/a.wav"
    path.unlink()
    if change == "shorter":
        soundfile.write(path, noise(10), 24000)
    elif change == "rate":
        soundfile.write(path, noise(1000), 16000)
    elif change == "channels":
        soundfile.write(path, np.stack([noise(1000)] * 2, axis=1), 24000)
    elif change == "text":
        path.write_text("no audio")
    with pytest.raises(UserError) as caught:
        file.read(0, 0, 1000, 24000)
    assert "a.wav" in str(caught.value)
    assert f"make_metadata_csv.py --root-dir {tmp_path / 'speech'}" in str(caught.value)
