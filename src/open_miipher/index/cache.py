"""What is made once a machine, in files that all processes there map: columns of metadata.csv.

They lie in XDG_CACHE_HOME/open_miipher where that is set, otherwise in open_miipher-UID in the
system's folder for temporary files (TMPDIR), never beside the audio: on a cluster these are usually
disks of the node, which home directories are not. Their names tell what they are made from (for
columns, a hash of the CSV file), so that another content has another file, wherever it stands.
Files not used for a month are removed, and of decoded recordings, which are large, all but the
newest, unless a process has them locked.
"""

import contextlib
import errno
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO, TypeVar

from open_miipher.base.account import user_number
from open_miipher.base.atomic import remove_leftovers, replacing, temporary_path
from open_miipher.base.errors import notice
from open_miipher.base.locks import lock_file
from open_miipher.base.paths import file_stamp
from open_miipher.base.threads import in_threads
from open_miipher.index.columns import (
    COLUMNS,
    Columns,
    check_columns,
    num_threads,
    read_columns,
    write_columns,
)
from open_miipher.index.rows import csv_errors, is_plain, read_blocks, read_header

T = TypeVar("T")

_SMALL_BYTES = 4 * 2**20  # of CSV: read in a blink, and little to hold in every process
_PART_BYTES = 2**20
_FREED_BYTES = 2**23
_SUFFIXES = (".index", ".samples", ".lock", ".tmp")
_KEPT_SECONDS = 30 * 24 * 3600
_KEPT_SAMPLES = 4  # files of decoded recordings: as many as a run has


def load_columns(path: Path) -> Columns:
    """Read a metadata.csv, or map the columns that were made from it before.

    Warns where they cannot be kept: every process then has its own in memory.

    Raises:
        UserError: the file cannot be read, is not CSV, lacks a column, has no rows, or rows that
            cannot be right.
    """
    _keep_freed_memory()
    with csv_errors(path):
        file = FileIO(path)
    with file:
        with csv_errors(path):
            digest, size, plain = _look_through(file)
        build = partial(_build, file, path, plain)
        if size >= _SMALL_BYTES:
            try:
                return from_cache(f"{digest}.index", build, map_columns, _check)
            except OSError as error:
                notice(
                    f"every process keeps the index {path} in its own memory, since it cannot be "
                    f"shared ({error}); name a folder on a disk of this machine: "
                    "export XDG_CACHE_HOME=FOLDER",
                )
        memory = BytesIO()
        build(memory)
    return read_columns(memory.getbuffer())


def from_cache(
    name: str,
    build: Callable[[BinaryIO], None],
    read: Callable[[Path], T],
    check: Callable[[Path], None] | None = None,
) -> T:
    """Read a file, which one process of the machine writes first if it is missing or damaged.

    Args:
        name: of the file in `cache_folder`; it tells all that its content depends on.
        build: writes the content to an empty file that is open for reading and writing.
        read: maps the file, or raises a ValueError if it is damaged.
        check: raises a ValueError if any byte of the file is damaged. It is not asked about what
            was written just now. With it, nothing waits for the disk: what a power failure damages
            is found, and written anew.

    Raises:
        UserError: what `build` raises.
        OSError: the folder is not safe, or the file cannot be written.
    """
    cached = cache_folder() / name
    _make_folder(cached.parent)
    before = file_stamp(cached)
    found = _found(cached, read, check)
    if found is not None:
        return found
    with open(cached.with_suffix(".lock"), "w") as lock:
        lock_file(lock, waits=True)  # another process may be writing it
        if file_stamp(cached) != before:
            found = _found(cached, read, check)
            if found is not None:
                return found
        remove_leftovers([cached])
        _remove_old(cached.parent)
        with open(temporary_path(cached), "w+b") as out, replacing(cached, check is None):
            lock_file(out)  # until it is in place
            build(out)
            out.flush()
        found = _found(cached, read, None)
    if found is None:
        raise OSError(f"{cached} was damaged or removed as soon as it was written")
    return found


def cache_folder() -> Path:
    """Return where the files lie."""
    home = os.environ.get("XDG_CACHE_HOME")
    if home:
        return Path(home, "open_miipher")
    return Path(tempfile.gettempdir(), f"open_miipher-{user_number()}")


def map_columns(cached: Path) -> Columns:
    """Map a file that was written before; its bytes are not checked.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no columns.
    """
    return replace(read_columns(_mapped(cached)), file=cached)


def _check(cached: Path) -> None:
    check_columns(_mapped(cached))


def _mapped(cached: Path) -> mmap.mmap:
    with open(cached, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _keep_freed_memory() -> None:
    """Have the C library keep what a part of the file frees for the next one.

    That of Linux gives what is free at the end of a heap back to the system, whose clearing of the
    same pages for the next part took an eighth of the time, but nothing below twice the size of the
    largest piece that was ever freed.
    """
    bytearray(_FREED_BYTES)


def _look_through(file: FileIO) -> tuple[str, int, bool]:
    """Return a hash of a file's content, its size in bytes, and whether it `is_plain`."""
    digest, size, plain = sha256(), 0, True
    parts = iter(partial(file.read, _PART_BYTES), b"")
    for part_digest, part_size, part_plain in in_threads(_look_at, parts, num_threads(), 1):
        digest.update(part_digest)
        size, plain = size + part_size, plain and part_plain
    return digest.hexdigest(), size, plain


def _look_at(part: bytes) -> tuple[bytes, int, bool]:
    return sha256(part).digest(), len(part), is_plain(part)


def _build(file: FileIO, path: Path, plain: bool, out: BinaryIO) -> None:
    header = read_header(file, path, COLUMNS)
    write_columns(read_blocks(file, path, plain), header, path, out)


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != user_number() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others may write there", str(folder))


def _found(
    cached: Path, read: Callable[[Path], T], check: Callable[[Path], None] | None
) -> T | None:
    """Read a file; None if there is none, or a damaged one, which will be written anew."""
    try:
        if check is not None:
            check(cached)
        found = read(cached)
    except (FileNotFoundError, ValueError):
        return None
    with contextlib.suppress(OSError):  # where nothing can be written, nothing is removed
        os.utime(cached)
    return found


def _remove_old(folder: Path) -> None:
    """Make room for one more file."""
    oldest, num_samples = (time.time() - _KEPT_SECONDS) * 1e9, 1
    stamps = {path: file_stamp(path) for path in folder.iterdir()}  # others write and remove, too
    used = {path: stamp[1] for path, stamp in stamps.items() if stamp and path.suffix in _SUFFIXES}
    for path in sorted(used, key=lambda path: used[path], reverse=True):
        is_of_samples = ".samples" in path.name  # what killed processes left of them, too
        num_samples += is_of_samples
        if (is_of_samples and num_samples > _KEPT_SAMPLES) or used[path] < oldest:
            _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
        if lock_file(file):
            path.unlink()
