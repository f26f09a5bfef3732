"""Files by their names: what lies below a folder, and what a file is called until it is whole."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from open_miipher.audio.reading import printable
from open_miipher.errors import UserError

_LONGEST_KEPT = 200  # bytes; a file name has room for 255


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


def temporary_path(path: Path) -> Path:
    """Return where a file is written until it is whole: beside it, hidden, with the process id."""
    return path.with_name(f".{temporary_stem(path.name)}.{os.getpid()}.tmp")


def temporary_stem(name: str) -> str:
    """Return what stands for a file's name in its temporary one: its SHA-256 if it is long."""
    raw = os.fsencode(name)
    return sha256(raw).hexdigest() if len(raw) > _LONGEST_KEPT else name


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
