"""One run owns an output directory."""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from open_miipher.base.errors import UserError

_RETRY_SECONDS = 0.5


def hold(directory: Path, patience_seconds: float = 0.0) -> TextIO:
    """Take the lock of a directory; it ends with the returned file or with this process.

    Args:
        directory: made if it is missing.
        patience_seconds: how long to wait for another process to let go.

    Returns:
        The open lock file: keep it for as long as the directory is written.

    Raises:
        UserError: another process holds it, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / ".lock", "a+")  # noqa: SIM115 - held open on purpose
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    try:
        _lock(file, time.monotonic() + patience_seconds)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"another run is writing to {directory} ({owner}); wait for it or choose another "
            "output directory"
        ) from error
    except OSError as error:
        file.close()
        raise UserError(
            f"{directory} lies on a file system without file locks ({error.strerror}), so two runs "
            "could write it at once; choose another one (Lustre: mounted with -o flock)"
        ) from error
    try:
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
    except OSError as error:  # a full disk: it names no file
        with contextlib.suppress(OSError):
            file.close()  # which tries to write again
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    return file


def _lock(file: TextIO, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_SECONDS)
