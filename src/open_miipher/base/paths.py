"""Printable paths, what lies inside what, and walking through a directory tree."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from open_miipher.base.errors import UserError, notice, report

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def printable(path: str | Path) -> str:
    """Return a path for a message; control characters and bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").translate(_CONTROL)


def file_stamp(path: str | Path) -> list[int] | None:
    """Return a file's size in bytes and time of change in ns, links followed; None if it is gone.

    A link to nowhere gives None as well.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def file_identity(path: str | Path) -> tuple[int, ...] | None:
    """Return what is the same for all names of one file, links followed; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # Size and time as well: some network file systems give a number twice.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def size_of(path: Path) -> int | None:
    """Return the size of a regular file in bytes; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists, links followed."""
    return next(p for p in (path, *path.resolve().parents) if os.path.exists(p))


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_apart(
    inputs: Iterable[str | Path],
    output_dir: Path,
    mend: str = "choose another output directory",
) -> None:
    """Refuse inputs that an output could replace, and outputs that a later run would take in.

    Raises:
        UserError: naming all of them, and what to do (`mend`).
    """
    problems = []
    output = printable(output_dir)
    for path in inputs:
        if lies_in(path, output_dir):
            problems.append(f"the input {printable(path)} lies in the output directory {output}")
        elif os.path.isdir(path) and lies_in(output_dir, path):
            problems.append(f"the output directory {output} lies in the input {printable(path)}")
    why = "inputs and outputs must not lie inside each other"
    report([f"{problem}; {mend}: {why}" for problem in problems])


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a directory and all folders below it, each with the names of its files.

    Symbolic links are followed; what two links lead to is yielded under both names. A link
    to a folder that contains the link is not entered. A broken link counts as a file, so that it is
    reported and not skipped. Names that begin with a dot are left out: temporary files, and files
    of file managers. So is, with a `Notice`, what lies in a folder below that cannot be listed,
    such as the `lost+found` of a disk.

    Args:
        root: the directory.

    Yields:
        The folder relative to the root ("", or with a slash at its end), and its files, unsorted.

    Raises:
        UserError: the root itself cannot be listed.
    """
    yield from _walk(root, "", frozenset())


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield `folder` and the folders below it; `above` identifies the folders that contain it."""
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            items = [item for item in entries if not item.name.startswith(".")]
    except OSError as error:
        problem = f"{printable(folder)} cannot be listed: {error.strerror}"
        if not prefix:
            raise UserError(problem) from error
        notice(f"{problem}; what lies in it is left out")
        return
    folders = [item for item in items if _is_folder(item)]
    names = {item.name for item in folders}
    yield prefix, [item.name for item in items if item.name not in names and _counts_as_file(item)]
    for item in folders:
        yield from _walk(item.path, f"{prefix}{item.name}/", above | {identity})


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # it may not be looked at: whoever reads it says why
        return False


def _counts_as_file(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_file() or item.is_symlink()
    except OSError:
        return True
