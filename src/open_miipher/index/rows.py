"""The rows of a CSV file, many at a time: where each field stands in a block of bytes.

A file without quotes is cut by numpy, which is much the faster; one with quotes is read by the csv
module. Both give the same blocks and the same error sentences. Files are handed over unbuffered, so
that several readers can begin at the start, one after the other.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.index.foreign import index_command, no_index

FIRST_ROW = 2  # as an editor counts: the header is row 1
_BLOCK_BYTES = 2**20  # what numpy makes of it still lies in the processor's cache
_BLOCK_ROWS = 50_000
_COMMA, _NEWLINE = b",\n"


@dataclass(frozen=True)
class Block:
    """Some rows that follow each other.

    Attributes:
        data: all fields in UTF-8, with a byte after each.
        starts: (rows, columns) int64, where each field begins in `data`.
        ends: (rows, columns) int64, where it ends.
    """

    data: bytes
    starts: np.ndarray
    ends: np.ndarray

    def texts(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the fields of these columns, row by row, with nothing between them.

        Returns:
            (bytes,) uint8, and (rows * columns,) int64, the length of each field.
        """
        starts, ends = self.starts[:, columns].ravel(), self.ends[:, columns].ravel()
        characters, lengths = np.frombuffer(self.data, np.uint8), ends - starts
        if list(columns) == sorted(columns):  # as they stand there, what is between them left out
            return characters[within(len(characters), starts, ends)], lengths
        before = np.cumsum(lengths) - lengths
        return characters[np.repeat(starts - before, lengths) + np.arange(lengths.sum())], lengths


def within(size: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return which of so many bytes lie within spans: (size,) bool.

    Args:
        size: of the data, in bytes.
        starts: where each span begins, in order.
        ends: where it ends, at most where the next one begins.
    """
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [size]])
    return np.repeat(np.arange(len(edges) - 1) % 2 == 1, np.diff(edges))


def is_plain(data: bytes) -> bool:
    """Whether a part of a CSV file has neither quotes nor carriage returns."""
    return b'"' not in data and b"\r" not in data


def read_header(file: FileIO, path: Path, required: Sequence[str]) -> list[str]:
    """Return the names of the columns.

    Args:
        file: the whole file, open for reading, unbuffered.
        path: its name, for messages.
        required: names that must be among them.

    Raises:
        UserError: not CSV, or a missing column.
    """
    header = next(_parsed(file, path), [])
    missing = [name for name in required if name not in header]
    if "file_path" in missing:
        raise no_index(path)
    if missing:
        mend = f"make it again: {index_command(path.parent)}"
        raise UserError(f"{path} has no column {', '.join(missing)}; {mend}")
    return header


def read_rows(file: FileIO, path: Path) -> Iterator[list[str]]:
    """Yield the fields of each row after the header.

    Args:
        file: the whole file, open for reading, unbuffered.
        path: its name, for messages.

    Raises:
        UserError: not CSV, or a row with more or fewer columns than the header.
    """
    rows = _parsed(file, path)
    num_columns = len(next(rows, []))
    for number, row in enumerate(rows, start=FIRST_ROW):
        _check_length(path, number, len(row), num_columns)
        yield row


def read_blocks(file: FileIO, path: Path, plain: bool) -> Iterator[Block]:
    """Yield all rows after the header, in blocks.

    Args:
        file: the whole file, open for reading, unbuffered.
        path: its name, for messages.
        plain: whether all of it `is_plain`.

    Raises:
        UserError: as `read_rows`.
    """
    return _plain_blocks(file, path) if plain else _parsed_blocks(file, path)


def _plain_blocks(file: FileIO, path: Path) -> Iterator[Block]:
    with csv_errors(path):
        file.seek(0)
        num_columns = file.readline().count(b",") + 1
    first_row = FIRST_ROW
    while True:
        with csv_errors(path):
            data = file.read(_BLOCK_BYTES) + file.readline()
            data.decode()  # or it is refused
        if not data:
            return
        if not data.endswith(b"\n"):
            data += b"\n"
        block = _cut(data, num_columns)
        if block is None:
            for number, line in enumerate(data.splitlines(), start=first_row):
                length = line.count(b",") + 1 if line else 0  # as the csv module counts
                _check_length(path, number, length, num_columns)
        else:
            first_row += len(block.starts)
            yield block


def _cut(data: bytes, num_columns: int) -> Block | None:
    """Find the fields of whole lines; None if some line has another number of them."""
    characters = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero((characters == _COMMA) | (characters == _NEWLINE))
    if len(ends) % num_columns:
        return None
    at_line_end = (characters[ends] == _NEWLINE).reshape(-1, num_columns)
    if not at_line_end[:, -1].all() or at_line_end[:, :-1].any():
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    by_column = (np.asfortranarray(each.reshape(-1, num_columns)) for each in (starts, ends))
    return Block(data, *by_column)


def _parsed_blocks(file: FileIO, path: Path) -> Iterator[Block]:
    rows = read_rows(file, path)
    while some := list(islice(rows, _BLOCK_ROWS)):
        fields = [field.encode() for row in some for field in row]
        ends = np.cumsum([len(field) + 1 for field in fields]) - 1
        starts = np.concatenate([[0], ends[:-1] + 1])
        shape = len(some), len(some[0])
        yield Block(b",".join([*fields, b""]), starts.reshape(shape), ends.reshape(shape))


def _parsed(file: FileIO, path: Path) -> Iterator[list[str]]:
    with csv_errors(path):
        file.seek(0)
        with open(file.fileno(), encoding="utf-8-sig", newline="", closefd=False) as text:
            yield from csv.reader(text, strict=True)


def _check_length(path: Path, number: int, length: int, num_columns: int) -> None:
    if length != num_columns:
        raise UserError(f"{path} row {number} has {length} columns, the header {num_columns}")


@contextmanager
def csv_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a CSV file is read into a sentence.

    Raises:
        UserError: the file cannot be read, or is not CSV.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not CSV in UTF-8: {error}") from error
