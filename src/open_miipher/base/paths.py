"""Printable paths, and walking through a directory tree."""

import os
from collections.abc import Iterator
from pathlib import Path

from open_miipher.base.errors import UserError


def printable(path: str | Path) -> str:
    """Return a path for a message; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a directory and all folders below it, each with the names of its files.

    Symbolic links are followed; what two links lead to is yielded under both names. A link
    to a folder that contains the link is not entered. A broken link counts as a file, so that it is
    reported and not skipped. Names that begin with a dot are left out: temporary files, and files
    of file managers.

    Args:
        root: the directory.

    Yields:
        The folder relative to the root ("", or with a slash at its end), and its files, unsorted.

    Raises:
        UserError: a folder cannot be listed.
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
        items = [item for item in os.scandir(folder) if not item.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be listed: {error.strerror}") from error
    folders = [item for item in items if os.path.isdir(item.path)]
    names = {item.name for item in folders}
    files = [item for item in items if item.name not in names]
    yield prefix, [item.name for item in files if os.path.isfile(item.path) or item.is_symlink()]
    for item in folders:
        yield from _walk(item.path, f"{prefix}{item.name}/", above | {identity})
