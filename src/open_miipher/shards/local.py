"""List the files in local folders, and those that patterns match; symbolic links are followed."""

import glob
import os
from collections.abc import Iterator

from open_miipher.base.paths import walk


def find(path: str) -> list[str]:
    """List the file, or the files in the folder and below it; [] if neither exists.

    Raises:
        UserError: a folder cannot be listed.
    """
    if not os.path.isdir(path):
        return [path] if os.path.lexists(path) else []
    return [os.path.join(path, folder + name) for folder, names in walk(path) for name in names]


def match(pattern: str) -> list[str]:
    """List the files that a pattern matches, and all files in folders that it matches.

    Args:
        pattern: absolute path with `*`, `?` and `[…]` inside a name, and `**` for any folders.

    Raises:
        UserError: a folder cannot be listed.
    """
    return [file for path in _matches(pattern) for file in find(path)]


def _matches(pattern: str) -> Iterator[str]:
    """Yield the paths that a pattern matches; with `**`, glob would follow circular links."""
    above, stars, below = f"{pattern}/".partition("/**/")
    if not stars:
        yield from glob.iglob(pattern)
        return
    for top in glob.iglob(above or "/"):
        if not below:
            yield top  # means all files below it
        elif os.path.isdir(top):
            for folder, _ in walk(top):
                yield from _matches(f"{glob.escape(os.path.join(top, folder))}{below}".rstrip("/"))
