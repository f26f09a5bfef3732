"""Atomic writing: under its name, a file is complete or does not exist.

A file is written under a temporary name in the same folder, synchronised to disk, and renamed. A
kill leaves the temporary file behind; `remove_leftovers` removes it.
"""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME_REFUSED = (
    *(errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)
_MAX_NAME_BYTES = 200  # of a name inside a temporary one; file systems allow 255 bytes for both
_TEMPORARY = re.compile(r"\.(.+?)\.\d+(\.plain)?\.tmp", re.DOTALL)  # see temporary_path


def name_refusal(error: OSError) -> str | None:
    """Say that a file system refuses this one name, if that is what the error means.

    It has letters that exFAT, NTFS or SMB do not take, it is too long there, or something else that
    is no file of ours stands in its place. Another name would do.
    """
    if error.errno not in _NAME_REFUSED:
        return None
    return f"{error.strerror}; rename the input, or choose another output directory"


def temporary_path(path: Path) -> Path:
    """Return the path under which a file is written: in its folder, hidden, with the process id."""
    return path.with_name(f".{_stem(path.name)}.{os.getpid()}.tmp")


def put_in_place(temporary: Path, path: Path, is_synced: bool = True) -> None:
    """Synchronise a finished file to disk and rename it to `path`; an older file is replaced.

    Args:
        temporary: the finished file.
        path: its name from then on.
        is_synced: without, a power failure may leave a damaged file at `path`.

    Raises:
        OSError: the file system reports an error.
    """
    if is_synced:
        with open(temporary, "rb+") as file:  # Windows synchronises no file that is only read
            os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def replacing(path: Path, is_synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write a file to; at the end of the block it is renamed to `path`.

    After an error in the block the temporary file is removed, and an older file at `path` is not
    changed.

    Args:
        path: of the file.
        is_synced: see `put_in_place`.

    Raises:
        OSError: the file system reports an error; if the disk is full, the error names the file.
    """
    temporary = temporary_path(path)
    try:
        with named_if_full(path):
            yield temporary
            put_in_place(temporary, path, is_synced)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_if_full(path: Path) -> Iterator[None]:
    """Have the error of a full disk name the file, which that of a failed write does not."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL and error.filename is None:
            error.filename = str(path)
        raise


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file atomically, with an end of line after each line.

    Raises:
        OSError: the file system reports an error.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def sync_folder(folder: Path) -> None:
    """Synchronise a folder's entries to disk (new, renamed and removed names), not file contents.

    Raises:
        OSError: the file system reports an error.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether this is a name from `temporary_path`: a file being written, or a leftover."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(outputs: Iterable[Path]) -> None:
    """Remove the temporary files that killed runs left of these outputs, and no others.

    Args:
        outputs: files that only the caller writes; each of their folders is listed once.
    """
    names_in: dict[Path, set[str]] = defaultdict(set)
    for output in outputs:
        names_in[output.parent].add(_stem(output.name))
    for folder, names in names_in.items():
        if os.path.isdir(folder):  # unlike pathlib's, it takes a path that is too long
            for path in folder.iterdir():
                match = _TEMPORARY.fullmatch(path.name)
                if match is not None and match[1] in names:
                    path.unlink(missing_ok=True)


def _stem(name: str) -> str:
    """Return the part of a temporary name that identifies the file: its name, or a hash if long."""
    raw = os.fsencode(name)
    return sha256(raw).hexdigest() if len(raw) > _MAX_NAME_BYTES else name
