"""Noise and rooms that are decoded once a machine: the same samples as from the files."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from open_miipher.data import decoded as module
from open_miipher.data.decoded import DecodedFiles, decoded
from open_miipher.data.files import Files
from open_miipher.data.material import RecordedNoise
from open_miipher.index import scan, write_index

KINDS = {
    "flac": {"subtype": "PCM_16"},
    "wav": {"subtype": "PCM_24"},
    "ogg": {"subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"subtype": "MPEG_LAYER_III"},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/open_miipher"


def make(root: Path, *kinds: str) -> Files:
    """Write files of several lengths, rates and channels, and their index."""
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for k, (rate, channels) in enumerate([(24000, 1), (16000, 2), (48000, 1), (24000, 2)]):
        kind = kinds[k % len(kinds)]
        waveform = rng.uniform(-1, 1, (rate // 2 + k, channels))
        soundfile.write(root / f"{k}.{kind}", waveform, rate, **KINDS[kind])
    write_index(root, scan(root).entries)
    return Files([str(root)])


def kept(cache: Path) -> Path:
    (found,) = cache.glob("*.samples")
    return found


@pytest.mark.parametrize(("kinds", "size"), [(["flac"], 2), (["wav"], 4), (["flac", "wav"], 4)])
@pytest.mark.parametrize("block", [1000, 2**20])
def test_samples_are_those_of_the_files_to_the_bit(
    cache, tmp_path, monkeypatch, kinds, size, block
):
    monkeypatch.setattr(module, "_BLOCK_FRAMES", block)
    files = make(tmp_path / "noise", *kinds)
    found = decoded(files, "noise")
    assert isinstance(found, DecodedFiles)
    assert kept(cache).stat().st_size == size * files.sizes.sum() + 4
    assert len(found) == len(files)
    for number in range(len(files)):
        ours, plain = found[number], files[number]
        assert (ours.name, ours.info, ours.path) == (plain.name, plain.info, plain.path)
        for start, count in [(0, plain.info.num_frames), (1234, 4567)]:
            block_of = ours.decode(start, count)
            assert block_of.dtype == np.float32
            assert np.array_equal(block_of, plain.decode(start, count))
    for seed in range(20):
        ours, plain = (
            RecordedNoise(source, 24000)(np.random.default_rng(seed), 9000)
            for source in (found, files)
        )
        assert ours[1] == plain[1]
        assert np.array_equal(ours[0], plain[0])


def test_they_are_decoded_once(cache, tmp_path, monkeypatch):
    files = make(tmp_path / "noise", "flac")
    first = decoded(files, "noise")
    monkeypatch.setattr(module, "_write", None)  # nothing is decoded again
    again = decoded(Files([str(tmp_path / "noise")]), "noise")
    copy = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 5000
    for other in (again, copy):
        assert np.array_equal(other[1].decode(5, 100), first[1].decode(5, 100))
    assert sorted(os.listdir(tmp_path / "noise")) == [
        "0.flac", "1.flac", "2.flac", "3.flac", "metadata.csv"
    ]  # fmt: skip


def test_changed_audio_of_the_same_index_is_decoded_anew(cache, tmp_path):
    files = make(tmp_path / "noise", "flac")
    decoded(files, "noise")
    waveform, rate = soundfile.read(tmp_path / "noise/0.flac")
    soundfile.write(tmp_path / "noise/0.flac", waveform / 2, rate)
    found = decoded(files, "noise")
    assert np.array_equal(found[0].decode(0, 100), files[0].decode(0, 100))


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_of_another_length_is_written_anew(cache, tmp_path, size):
    files = make(tmp_path / "noise", "flac")
    decoded(files, "noise")
    os.truncate(kept(cache), size)
    found = decoded(files, "noise")
    assert np.array_equal(found[3].decode(0, 100), files[3].decode(0, 100))


@pytest.mark.parametrize("place", [0, 50_001, -5, -1])
@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_a_file_with_another_bit_is_written_anew(cache, tmp_path, kind, place):
    files = make(tmp_path / "noise", kind)
    decoded(files, "noise")
    whole = kept(cache).read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    kept(cache).write_bytes(damaged)
    found = decoded(files, "noise")
    assert isinstance(found, DecodedFiles)
    assert kept(cache).read_bytes() == whole


def test_pages_that_were_never_written_are_noticed(cache, tmp_path):
    files = make(tmp_path / "noise", "flac")
    decoded(files, "noise")
    whole = kept(cache).read_bytes()
    kept(cache).write_bytes(whole[:4096] + bytes(8192) + whole[3 * 4096 :])
    found = decoded(files, "noise")
    assert np.array_equal(found[0].decode(0, 12000), files[0].decode(0, 12000))


def waits_for_lock(pid: int) -> bool:
    rows = Path("/proc/locks").read_text().splitlines()
    return any("->" in row and str(pid) in row.split() for row in rows)


@pytest.mark.parametrize("during", ["decoding", "waiting for another process"])
def test_a_signal_breaks_the_decoding_off_and_does_its_work_then(
    cache, tmp_path, wait_until, during
):
    make(tmp_path / "noise", "flac")
    program = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(module.__file__).parents[2])!r})\n"
        "from open_miipher.data import decoded as module, files\n"
        "from open_miipher.distributed import StopSignal, stop_signals_interrupt\n"
        "remembers = sys.argv[1] == 'remember'\n"
        "stop = StopSignal() if remembers else stop_signals_interrupt()\n"
        "def decode(*_):\n"
        "    print('decodes', flush=True)\n"
        "    signal.pause()\n"
        "    print('goes on', flush=True)\n"
        "    os._exit(1)\n"
        "files.File.decode = decode\n"
        f"given = files.Files([{str(tmp_path / 'noise')!r}])\n"
        "print('waits', flush=True)\n"
        "print(module.decoded(given, 'noise') is given, stop.received)\n"
    )

    def start(how):
        command = [sys.executable, "-c", program, how]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **pipes, text=True)
        assert process.stdout.readline() == "waits\n"
        return process

    holder = start("be interrupted")
    assert holder.stdout.readline() == "decodes\n"
    assert [path.suffix for path in sorted(cache.iterdir())] == [".tmp", ".lock"]
    ends = holder
    if during != "decoding":
        ends = start("remember")
        wait_until(lambda: waits_for_lock(ends.pid))
    ends.send_signal(signal.SIGTERM)
    out, _ = ends.communicate(timeout=60)
    if ends is holder:  # nobody remembers signals there
        assert (ends.returncode, out) == (-signal.SIGINT, "")
    else:
        assert (ends.returncode, out) == (0, "True SIGTERM\n")
        holder.terminate()
        holder.communicate(timeout=60)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_copies_elsewhere_do_not_fill_the_disk_and_what_is_in_use_stays(cache, tmp_path):
    files = make(tmp_path / "noise", "flac")
    in_use = decoded(files, "noise")
    (first,) = cache.glob("*.samples")
    os.utime(first, (0, 0))  # it is also older than a month
    for job in range(6):
        shutil.copytree(tmp_path / "noise", tmp_path / str(job))
        decoded(Files([str(tmp_path / str(job))]), "noise")
        assert len(list(cache.glob("*.samples"))) == min(job + 2, 5)
        assert first.exists()
    del in_use
    decoded(make(tmp_path / "more", "flac"), "noise")
    assert len(list(cache.glob("*.samples"))) == 4
    assert not first.exists()


def test_what_killed_processes_left_is_removed_but_not_what_others_write(
    cache, tmp_path, monkeypatch
):
    write = module._write

    def write_while_others_begin(files, out):
        for job in range(6):
            (cache / f".{job}.samples.123.tmp").touch()
        monkeypatch.setattr(module, "_write", write)
        decoded(make(tmp_path / "more", "flac"), "noise")
        left = [path.name for path in cache.glob(".*.tmp")]
        assert len([name for name in left if name.endswith(".123.tmp")]) == 3
        write(files, out)

    monkeypatch.setattr(module, "_write", write_while_others_begin)
    assert isinstance(decoded(make(tmp_path / "noise", "flac"), "noise"), DecodedFiles)


def test_a_worker_that_starts_after_the_file_was_removed_has_the_same_samples(cache, tmp_path):
    files = make(tmp_path / "noise", "flac")
    text = pickle.dumps(decoded(files, "noise"))
    shutil.rmtree(cache)
    again = pickle.loads(text)
    assert np.array_equal(again[3].decode(7, 100), files[3].decode(7, 100))
    kept(cache).unlink()
    shutil.rmtree(tmp_path / "noise")
    with pytest.warns(UserWarning, match="noise is decoded anew for each sample"):
        assert isinstance(pickle.loads(text), Files)


def test_a_file_on_a_disk_that_cannot_be_written_is_used(cache, tmp_path, monkeypatch):
    files = make(tmp_path / "noise", "flac")
    decoded(files, "noise")

    def refused(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "utime", refused)
    assert isinstance(decoded(files, "noise"), DecodedFiles)


def test_audio_in_a_folder_whose_name_is_no_text(cache, tmp_path):
    make(tmp_path / "noise", "flac")
    folder = (tmp_path / "noise").rename(tmp_path / os.fsdecode(b"n\xffoise\n"))
    assert isinstance(decoded(Files([str(folder)]), "noise"), DecodedFiles)


@pytest.mark.parametrize("limit", ["_MOST_SAMPLES", "_MOST_FILES"])
def test_too_many_are_decoded_where_they_are_drawn(cache, tmp_path, monkeypatch, limit):
    files = make(tmp_path / "noise", "flac")
    monkeypatch.setattr(module, limit, 3)
    assert decoded(files, "noise") is files
    assert not cache.exists()


def test_without_room_that_is_told(cache, tmp_path, monkeypatch):
    files = make(tmp_path / "noise", "flac")
    cache.parent.write_text("in the way")
    with pytest.warns(
        UserWarning, match="^noise_dir is decoded anew for each sample.*Not a directory"
    ):
        assert decoded(files, "noise_dir") is files


def test_a_disk_without_room_is_not_filled(cache, tmp_path, monkeypatch):
    files = make(tmp_path / "noise", "flac")
    needed = 2 * int(files.sizes.sum())
    monkeypatch.setattr(module.File, "decode", None)  # nothing is decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.warns(UserWarning, match=r"cannot be decoded once: .* No space left.*\.samples"):
        assert decoded(files, "noise") is files
    assert not list(cache.glob(".*.tmp"))


def test_a_damaged_recording_is_told_and_leaves_nothing(cache, tmp_path):
    files = make(tmp_path / "noise", "flac")
    whole = (tmp_path / "noise/2.flac").read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes(4000) + whole[middle + 4000 :]
    (tmp_path / "noise/2.flac").write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"cannot be decoded once: .*2\.flac is damaged"):
        assert decoded(files, "noise") is files
    assert not list(cache.glob("*.samples"))


@pytest.mark.parametrize("kind", ["mp3", "ogg", "opus"])
def test_what_depends_on_where_decoding_begins_is_left_alone_and_that_is_told(
    cache, tmp_path, kind
):
    files = make(tmp_path / "noise", kind)
    subtype = KINDS[kind]["subtype"]
    with pytest.warns(UserWarning, match=rf"0\.{kind} is {subtype}, .* convert it to FLAC"):
        assert decoded(files, "noise") is files
