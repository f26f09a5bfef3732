"""Locks on directories: one run writes an output directory, or several that share it do.

A lock ends when its file is closed, or with its process.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from open_miipher.base.errors import UserError
from open_miipher.base.locks import lock_file

_RETRY_SECONDS = 0.05


def hold(directory: Path, patience_seconds: float = 0.0) -> TextIO:
    """Take the lock of a directory, and write into it who has it.

    Args:
        directory: made if it is missing.
        patience_seconds: how long to wait for another process to let go.

    Returns:
        The open lock file: keep it for as long as the directory is written.

    Raises:
        UserError: another process holds it, or as `take`.
    """
    file = take(directory, patience_seconds)
    if file is None:
        raise UserError(
            f"another run is writing to {directory} ({holder(directory) or 'unknown'}); wait for "
            "it or choose another output directory"
        )
    try:
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
    except OSError as error:  # a full disk: it names no file
        with contextlib.suppress(OSError):
            file.close()  # which tries to write again
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    return file


def take(directory: Path, patience_seconds: float = 0.0, is_shared: bool = False) -> TextIO | None:
    """Take the lock of a directory, alone or together with others; None if it is not free.

    Raises:
        UserError: the directory cannot be written, or its file system has no locks.
    """
    file = _open(directory, ".lock")
    deadline = time.monotonic() + patience_seconds
    while not _locked(file, directory, is_shared):
        if time.monotonic() >= deadline:
            file.close()
            return None
        time.sleep(_RETRY_SECONDS)
    return file


@contextlib.contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Wait for the turn to decide something for all that share a directory; keep it short.

    Raises:
        UserError: as `take`.
    """
    with _open(directory, ".turn") as file:
        _locked(file, directory, waits=True)
        yield


def holder(directory: Path) -> str | None:
    """Return what the holder of a directory's lock wrote into it; None if nobody holds it.

    Writes nothing, and works on a read-only mount.
    """
    try:
        file = (directory / ".lock").open()
    except FileNotFoundError:
        return None
    with file:
        if _locked(file, directory, is_shared=True):
            return None
        return file.read().strip() or "unknown"


def _open(directory: Path, name: str) -> TextIO:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / name).open("a+")
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error


def _locked(file: TextIO, directory: Path, is_shared: bool = False, waits: bool = False) -> bool:
    try:
        return lock_file(file, is_shared, waits)
    except OSError as error:
        file.close()
        raise UserError(
            f"{directory} lies on a file system without file locks ({error.strerror}), so two runs "
            "could write it at once; choose another one (Lustre: mounted with -o flock)"
        ) from error
