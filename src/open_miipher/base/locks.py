"""Locks on open files, which end when the file is closed, or with its process."""

import functools
from typing import IO, Any

from open_miipher.base.errors import notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock_file(file: IO[Any], is_shared: bool = False, waits: bool = False) -> bool:
    """Lock an open file, alone or together with others; False if it is not free.

    A system without such locks is told of once, and gives everything to everyone.

    Args:
        file: which; it stays open for as long as it is to be locked.
        is_shared: others may hold it as well, as long as they share it.
        waits: until it is free.

    Raises:
        OSError: the file system has no locks.
    """
    if fcntl is None:
        _say_that_there_are_none()
        return True
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if waits else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@functools.cache
def _say_that_there_are_none() -> None:
    notice("this system has no file locks: see to it that no two runs write to the same folder")
