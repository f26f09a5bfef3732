"""Files of rows, a JSON object a line, only ever appended to.

A kill can tear the last line of a file; it is ignored by readers and cut off by the next writer.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from open_miipher.base.errors import UserError

Row = dict[str, Any]

_TAIL_BYTES = 1 << 16


class RowWriter(AbstractContextManager["RowWriter"]):
    """Appends rows to a file and has them on the disk before it goes on.

    Raises:
        OSError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115 - open until __exit__
        self._file.truncate(_end_of_whole_lines(self._file))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows."""
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        self._file.close()


class RowReader:
    """Reads a file from its start, and later what was appended since.

    Args:
        path: may be missing, and holds no rows then.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._number = path, 0, 0

    def read(self) -> Iterator[Row]:
        """Yield the rows that were not read yet; a last line without its end is left for later.

        Raises:
            UserError: another line is no row.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                self._number += 1
                yield self._row(line)

    def has_more(self) -> bool:
        """Whether there are whole lines that were not read yet."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            return _end_of_whole_lines(file) > self._place

    def _row(self, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(
                f"{self._path}, line {self._number} is damaged; remove that line, and what it "
                "recorded is made again"
            )
        return row


def read_rows(path: Path) -> Iterator[Row]:
    """Read all rows of a file (see `RowReader.read`)."""
    return RowReader(path).read()


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Return the place after a file's last line end, found from behind."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
