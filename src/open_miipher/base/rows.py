"""Rows: JSON objects, one a line, in files that are only appended to.

A kill can tear the last line of a file; readers ignore it, and the next writer cuts it off.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

Row = dict[str, Any]

_TAIL_BYTES = 1 << 16


class RowWriter(AbstractContextManager["RowWriter"]):
    """Appends rows, and has them with the system before it returns: they outlive this process.

    They are on the disk before it returns, too, or soon after the next rows: so that a thousand
    rows of a second wait for the disk once. A machine that loses its power may lose those.

    Args:
        path: of the file.
        sync_every: seconds from one time that rows are on the disk to the next, while more come.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, sync_every: float = 0.0) -> None:
        self._sync_every, self._synced = sync_every, 0.0
        with _told(path):
            self._file = open(path, "a+b")  # noqa: SIM115 - open until __exit__
            self._file.truncate(_end_of_whole_lines(self._file))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows."""
        with _told(self._file.name):
            self._file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
            self._file.flush()
            if time.monotonic() - self._synced >= self._sync_every:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what `write` could not write is tried again here
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; none if it is missing.

    Raises:
        UserError: a line is no row, and it is not a torn last one.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, line {number} is damaged; remove that line, and what it recorded is "
                    "made again"
                )
            yield row


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror}") from error


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Return the place after a file's last line end, searched for from its end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
