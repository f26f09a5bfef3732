"""Names of files for people, and what lies below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from open_miipher.base.errors import UserError


def printable(path: str | Path) -> str:
    """Return a path for a message: bytes of it that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walk(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield all folders from a directory on, each with the names of the files in it.

    Symbolic links are followed, and what two links reach is yielded under both names; a link to a
    folder that it lies in is not entered. A link to nowhere counts as a file, so that it is
    reported and not passed over. Names that begin with a dot are left out: temporary files, and
    what file managers leave behind.

    Args:
        root: the directory.

    Yields:
        The folder relative to the root, "" or with a slash at its end, and its files, unsorted.

    Raises:
        UserError: a folder that cannot be listed.
    """
    yield from _walk(root, "", frozenset())


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield what lies below `folder`; `above` identifies the folders that lead to it."""
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
