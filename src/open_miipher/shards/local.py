"""What lies in local folders, and what patterns match there; symbolic links are followed."""

import glob
import os
from collections.abc import Iterator

from open_miipher.base.paths import walk


def find(path: str) -> list[str]:
    """List a file, or the files in a folder and below; [] if there is neither.

    Raises:
        UserError: a folder that cannot be listed.
    """
    if not os.path.isdir(path):
        return [path] if os.path.lexists(path) else []
    return [os.path.join(path, folder + name) for folder, names in walk(path) for name in names]


def match(pattern: str) -> list[str]:
    """List what a pattern stands for: the files that it matches, and those in folders it matches.

    Args:
        pattern: absolute, with `*`, `?` and `[…]` inside a name, and `**` for any folders.

    Raises:
        UserError: a folder that cannot be listed.
    """
    return [file for path in _matches(pattern) for file in find(path)]


def _matches(pattern: str) -> Iterator[str]:
    """Yield the paths that a pattern matches; glob itself would follow links in circles at `**`."""
    above, stars, below = f"{pattern}/".partition("/**/")
    if not stars:
        yield from glob.iglob(pattern)
        return
    for top in glob.iglob(above or "/"):
        if not below:
            yield top  # stands for all below it
        elif os.path.isdir(top):
            for folder, _ in walk(top):
                yield from _matches(f"{glob.escape(os.path.join(top, folder))}{below}".rstrip("/"))
