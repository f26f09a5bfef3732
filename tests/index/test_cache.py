"""The columns that all processes of a machine share: written once, found again, never trusted."""

import fcntl
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.index import Entry, Index, cache, read_index, write_index

ENTRIES = [Entry(f"{k:04d}.wav", 24000, 100 + k, 1, {"text": "ä" * (k % 3)}) for k in range(500)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where columns are kept, of small indexes too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_SMALL_BYTES", 0)
    return tmp_path / "cache/open_miipher"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    write_index(tmp_path / "audio", ENTRIES)
    return tmp_path / "audio"


def cached(folder: Path) -> Path:
    (found,) = folder.glob("*.index")
    return found


@contextmanager
def file_limit(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_is_written_once_and_mapped(folder, root, monkeypatch):
    first = read_index(root)
    assert first.columns.file == cached(folder)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_columns", None)  # nothing is made again
        second = read_index(root)
    assert first.entries == second.entries == ENTRIES
    assert second.fingerprint == first.fingerprint
    assert os.listdir(root) == ["metadata.csv"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_mapped_and_what_is_in_memory_are_the_same(folder, root, monkeypatch):
    mapped = read_index(root)
    monkeypatch.setattr(cache, "_SMALL_BYTES", 1 << 30)
    in_memory = read_index(root)
    assert in_memory.columns.file is None
    assert in_memory.entries == mapped.entries
    assert in_memory.fingerprint == mapped.fingerprint


def test_a_changed_csv_file_of_the_same_size_and_time_is_read_anew(folder, root):
    path = root / "metadata.csv"
    before = path.stat()
    read_index(root)
    path.write_text(path.read_text().replace("0000.wav,24000", "0000.wav,48000"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read_index(root)[0].sample_rate == 48000


@pytest.mark.parametrize("damage", ["truncated", "empty", "a byte", "foreign", "footer"])
def test_a_damaged_one_is_written_anew(folder, root, damage):
    read_index(root)
    path = cached(folder)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "a byte": b"\0" + whole[1:],
            "foreign": b"something else",
            "footer": whole[:-24] + b"\xff" * 8 + whole[-16:],
        }[damage]
    )
    assert read_index(root).entries == ENTRIES
    assert path.read_bytes() == whole


def test_what_is_written_is_not_read_back_or_waited_for(folder, root, monkeypatch):
    """A power failure may leave it damaged: it is checked when it is found."""
    checked = []
    monkeypatch.setattr(cache, "check_columns", lambda buffer: checked.append(len(buffer)))
    monkeypatch.setattr("open_miipher.base.atomic.os.fsync", None)
    first = read_index(root)
    assert not checked
    read_index(root)
    assert checked == [cached(folder).stat().st_size]
    pickle.loads(pickle.dumps(first))
    assert len(checked) == 1


def test_what_cannot_be_checked_is_waited_for(folder, monkeypatch):
    synced = []
    monkeypatch.setattr("open_miipher.base.atomic.os.fsync", synced.append)
    found = cache.from_cache("x.samples", lambda out: out.write(b"samples"), Path.read_bytes)
    assert found == b"samples"
    assert len(synced) == 1


@pytest.mark.parametrize("hindrance", ["a file", "others", "full"])
def test_where_it_cannot_be_kept_that_is_told(folder, root, hindrance):
    if hindrance == "a file":
        folder.parent.write_text("in the way")
    elif hindrance == "others":
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    with (
        file_limit(2**13) if hindrance == "full" else nullcontext(),
        pytest.warns(UserWarning, match="in its own memory.*export XDG_CACHE_HOME") as told,
    ):
        index = read_index(root)
    assert str(root / "metadata.csv") in str(told[0].message)
    assert index.entries == ENTRIES
    assert not list(root.parent.rglob("*.index"))


def test_wrong_rows_are_named_and_leave_nothing(folder, root):
    write_index(root, [*ENTRIES, Entry("../x.wav", 0, 1, 1)])
    for _ in range(2):
        with pytest.raises(UserError, match=r"metadata\.csv row 2: file_path '\.\./x\.wav'"):
            read_index(root)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_leftovers_and_what_was_not_used_for_a_month_are_removed(folder, root):
    read_index(root)
    path = cached(folder)
    path.unlink()
    leftover = folder / f".{path.name}.123.tmp"
    old, used = folder / "old.index", folder / "used.index"
    (folder / "gone.tmp").symlink_to("nowhere")  # as what another process has just put in place
    for other in (leftover, old, used):
        other.touch()
    a_month_ago = time.time() - 31 * 24 * 3600
    os.utime(old, (a_month_ago, a_month_ago))
    read_index(root)
    assert used.exists()
    assert not leftover.exists()
    assert not old.exists()


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_process_waits_for_the_one_that_writes_and_does_so_itself_if_that_fails(
    folder, root, succeeds
):
    read_index(root)
    path = cached(folder)
    moved = path.rename(path.with_suffix(".moved"))
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).resolve().parents[2] / 'src')!r})\n"
        "from open_miipher.index import cache, read_index\n"
        "cache._SMALL_BYTES = 0\n"
        "print('reads', flush=True)\n"
        f"print(len(read_index({str(root)!r})), flush=True)"
    )
    with open(path.with_suffix(".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", program]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert waiting.stdout.readline() == "reads\n"
        time.sleep(0.3)
        assert waiting.poll() is None
        inode = moved.stat().st_ino
        if succeeds:
            moved.rename(path)
    assert waiting.communicate()[0] == "500\n"
    assert (path.stat().st_ino == inode) == succeeds


def test_it_is_pickled_as_its_file_and_small_ones_as_they_are(folder, root, monkeypatch):
    mapped = read_index(root)
    text = pickle.dumps(mapped)
    assert len(text) < 1000
    assert pickle.loads(text).entries == ENTRIES
    monkeypatch.setattr(cache, "_SMALL_BYTES", 1 << 30)
    again = pickle.loads(pickle.dumps(read_index(root)))
    assert isinstance(again, Index)
    assert again.entries == ENTRIES


def test_without_xdg_cache_home_it_lies_among_the_temporary_files(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache.cache_folder() == tmp_path / f"open_miipher-{os.getuid()}"
