"""The rows of a CSV file, many at a time: where each field stands in a block of bytes.

A file without quotes is cut by numpy, which is much the faster; one with quotes is read by the csv
module. Both give the same blocks and the same error sentences. Files are handed over unbuffered, so
that several readers can begin at the start, one after the other.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.index.foreign import index_command, no_index

FIRST_ROW = 2  # as an editor counts: the header is row 1
PADDING = 512
"""Zero bytes behind the fields of a block, so that as many can be taken from any place in it."""

_BLOCK_BYTES = 2**20  # what numpy makes of it still lies in the processor's cache
_BLOCK_ROWS = 50_000
_COMMA, _NEWLINE = b",\n"


@dataclass(frozen=True)
class Block:
    """Some rows that follow each other.

    Attributes:
        data: all fields in UTF-8, with a byte after each, and `PADDING` zero bytes.
        starts: (rows, columns) int64, where each field begins in `data`.
        ends: (rows, columns) int64, where it ends.
    """

    data: bytes
    starts: np.ndarray
    ends: np.ndarray

    @property
    def characters(self) -> np.ndarray:
        """The data without the padding: (bytes,) uint8."""
        return np.frombuffer(self.data, np.uint8)[:-PADDING]

    def windows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """Return what stands at these places, whatever it is.

        Args:
            starts: (n,) int64.
            width: bytes from each place on, at most `PADDING`.

        Returns:
            (n, width) uint8.
        """
        everywhere = np.ndarray(len(self.data) - width + 1, f"V{width}", self.data, strides=(1,))
        return everywhere[starts].view(np.uint8).reshape(-1, width)

    def texts(self, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the fields of these columns, row by row, with nothing between them.

        Returns:
            (bytes,) uint8, and (rows * columns,) int64, the length of each field.
        """
        starts, ends = self.starts[:, columns].ravel(), self.ends[:, columns].ravel()
        characters, lengths = self.characters, ends - starts
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


def read_blocks(file: FileIO, path: Path, plain: bool) -> Iterator[Callable[[], Block]]:
    """Yield all rows after the header, in blocks, each made when it is called for, in any thread.

    Args:
        file: the whole file, open for reading, unbuffered.
        path: its name, for messages.
        plain: whether all of it `is_plain`.

    Raises:
        UserError: as `read_rows`, also when a block is called for.
    """
    return _plain_blocks(file, path) if plain else _parsed_blocks(file, path)


def _plain_blocks(file: FileIO, path: Path) -> Iterator[Callable[[], Block]]:
    with csv_errors(path):
        file.seek(0)
        num_columns = file.readline().count(b",") + 1
    first_row, rest, padding = FIRST_ROW, b"", bytes(PADDING)
    while True:
        with csv_errors(path):
            part = file.read(_BLOCK_BYTES)
        if not part and not rest:
            return
        part = part or b"\n"  # which the last row may lack
        end = part.rfind(b"\n") + 1
        data = b"".join([rest, memoryview(part)[:end], padding])
        rest = part[end:] if end else rest + part
        if end:
            yield partial(_cut, data, num_columns, path, first_row)
            first_row += int(np.count_nonzero(np.frombuffer(data, np.uint8) == _NEWLINE))


def _cut(data: bytes, num_columns: int, path: Path, first_row: int) -> Block:
    """Find the fields of whole lines.

    Raises:
        UserError: they are not UTF-8, or one has another number of fields.
    """
    with csv_errors(path):
        data.decode()  # or it is refused
    characters = np.frombuffer(data, np.uint8)
    places = np.flatnonzero((characters == _COMMA) | (characters == _NEWLINE))
    line_ends = np.flatnonzero(characters[places] == _NEWLINE)
    if not np.array_equal(line_ends, np.arange(num_columns - 1, len(places), num_columns)):
        for number, line in enumerate(data.split(b"\n")[:-1], start=first_row):
            length = line.count(b",") + 1 if line else 0  # as the csv module counts
            _check_length(path, number, length, num_columns)
    ends = np.asfortranarray(places.reshape(-1, num_columns))
    starts = np.empty_like(ends)
    starts[0, 0], starts[1:, 0], starts[:, 1:] = 0, ends[:-1, -1] + 1, ends[:, :-1] + 1
    return Block(data, starts, ends)


def _parsed_blocks(file: FileIO, path: Path) -> Iterator[Callable[[], Block]]:
    rows = read_rows(file, path)
    while some := list(islice(rows, _BLOCK_ROWS)):
        yield partial(_joined, some)


def _joined(rows: list[list[str]]) -> Block:
    fields = [field.encode() for row in rows for field in row]
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    shape = len(rows), len(rows[0])
    data = b",".join([*fields, bytes(PADDING)])
    return Block(data, starts.reshape(shape), ends.reshape(shape))


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
