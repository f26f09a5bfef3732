"""Files that are whole under their name, or not there at all.

A file is written under a temporary name beside its own, had on the disk, and renamed. A kill leaves
the temporary file behind; `remove_leftovers` clears it up.
"""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_KEPT = 200  # bytes; a file name has room for 255
_TEMPORARY = re.compile(r"\.(.+?)\.\d+(\.plain)?\.tmp", re.DOTALL)  # see temporary_path


def temporary_path(path: Path) -> Path:
    """Return where a file is written until it is whole: beside it, hidden, with the process id."""
    return path.with_name(f".{_stem(path.name)}.{os.getpid()}.tmp")


def put_in_place(temporary: Path, path: Path) -> None:
    """Have a finished file on the disk and give it its name, in place of an older one.

    Raises:
        OSError: the disk refuses.
    """
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write a file under; leaving the block puts the file in place.

    After an error in the block it is removed, and an older file of that name stays as it was.

    Raises:
        OSError: the disk refuses; of a full one, it names the file.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)  # a failed write does not say to which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file as a whole, an end of line after each line.

    Raises:
        OSError: the disk refuses.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk: names given and taken, not the files' content.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one of ours that is being written, or was."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(outputs: Iterable[Path]) -> None:
    """Remove the temporary files of these outputs, left by killed runs, and no others.

    Args:
        outputs: those that the caller alone writes; each folder is listed once.
    """
    names_in: dict[Path, set[str]] = defaultdict(set)
    for output in outputs:
        names_in[output.parent].add(_stem(output.name))
    for folder, names in names_in.items():
        if folder.is_dir():
            for path in folder.iterdir():
                match = _TEMPORARY.fullmatch(path.name)
                if match is not None and match[1] in names:
                    path.unlink(missing_ok=True)


def _stem(name: str) -> str:
    """Return what stands for a file's name in its temporary one: its SHA-256 if it is long."""
    raw = os.fsencode(name)
    return sha256(raw).hexdigest() if len(raw) > _LONGEST_KEPT else name
