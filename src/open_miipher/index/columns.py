"""An index as columns in one block of bytes, which a file, a memory map or memory holds.

Layout, numbers little-endian, one part directly after the other:

    texts          UTF-8: of each row its path, then its extra columns, nothing between them
    padding        0 to 7 zero bytes, so that what follows begins at a multiple of 8
    offsets        int64, rows * (1 + extra columns) + 1: text k is texts[offsets[k]:offsets[k + 1]]
    num_frames     int64, one a row
    sample_rate    int32, one a row
    num_channels   int32, one a row
    description    JSON: rows, text_bytes, extra_names, fingerprint
    footer         int64 length of the description, int64 CRC-32 of all before the footer, and the
                   8 bytes OM2INDEX

The description stands at the end because only then is everything in it known.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import SEEK_END
from mmap import mmap
from pathlib import Path, PurePosixPath
from struct import Struct
from typing import BinaryIO, TypeVar

import numpy as np

from open_miipher.base.errors import UserError, report
from open_miipher.base.threads import in_threads, num_cores
from open_miipher.index.rows import FIRST_ROW, PADDING, Block, within

T = TypeVar("T")

COLUMNS = ("file_path", "sample_rate", "num_frames", "num_channels")
_MOST = {"sample_rate": 2**31 - 1, "num_frames": 10**18 - 1, "num_channels": 2**31 - 1}
_MOST_DIGITS = 18  # so many digits always fit into an int64
_NUMBERS = {"sample_rate": "<i4", "num_frames": "<i8", "num_channels": "<i4"}
_READ_ROWS = 10_000  # at a time, where they are read back
_MOST_THREADS = 4  # what cannot be shared out takes a third of the time
_FOOTER = Struct("<qq8s")
_MAGIC = b"OM2INDEX"


@dataclass(frozen=True, eq=False)
class Columns:
    """All rows of an index.

    Attributes:
        texts: (bytes,) uint8, see the layout above.
        offsets: (rows * (1 + extra columns) + 1,) int64.
        num_frames: (rows,) int64, lengths in the files' own frames.
        sample_rate: (rows,) int32, Hz.
        num_channels: (rows,) int32.
        extra_names: of the extra columns (speaker, text, …).
        fingerprint: SHA-256 over path, rate, frames and channels of every row, in order.
        file: that the arrays are mapped from; None where they are in memory.
    """

    texts: np.ndarray
    offsets: np.ndarray
    num_frames: np.ndarray
    sample_rate: np.ndarray
    num_channels: np.ndarray
    extra_names: tuple[str, ...]
    fingerprint: str
    file: Path | None = None

    def text(self, row: int, column: int) -> str:
        """Return a row's path (column 0) or one of its extra columns (from 1 on)."""
        place = row * (1 + len(self.extra_names)) + column
        start, end = self.offsets[place : place + 2].tolist()
        return self.texts[start:end].tobytes().decode()


def num_threads() -> int:
    """Return how many threads look at a CSV file."""
    return min(_MOST_THREADS, num_cores())


def check_columns(buffer: mmap | memoryview) -> None:
    """See that what `write_columns` wrote is whole.

    Raises:
        ValueError: it is damaged, or something else.
    """
    if zlib.crc32(memoryview(buffer)[: -_FOOTER.size]) != _footer(buffer)[1]:
        raise ValueError("damaged columns")


def read_columns(buffer: mmap | memoryview) -> Columns:
    """Find the columns in what `write_columns` wrote; nothing is copied, or checked.

    Raises:
        ValueError: it is something else.
    """
    length, body = _footer(buffer)[0], len(buffer) - _FOOTER.size
    description = json.loads(bytes(memoryview(buffer)[body - length : body]))
    rows, names = description["rows"], tuple(description["extra_names"])
    texts = np.frombuffer(buffer, np.uint8, description["text_bytes"])
    place = -(-len(texts) // 8) * 8

    def following(dtype: str, count: int) -> np.ndarray:
        nonlocal place
        array = np.frombuffer(buffer, dtype, count, place)
        place += array.nbytes
        return array

    return Columns(
        texts,
        offsets=following("<i8", rows * (1 + len(names)) + 1),
        num_frames=following("<i8", rows),
        sample_rate=following("<i4", rows),
        num_channels=following("<i4", rows),
        extra_names=names,
        fingerprint=description["fingerprint"],
    )


def _footer(buffer: mmap | memoryview) -> tuple[int, int]:
    """Return the length of the description and the CRC."""
    if len(buffer) < _FOOTER.size:
        raise ValueError("too short")
    length, checksum, magic = _FOOTER.unpack_from(buffer, len(buffer) - _FOOTER.size)
    if magic != _MAGIC:
        raise ValueError("no columns")
    return length, checksum


def write_columns(
    blocks: Iterable[Callable[[], Block]], header: list[str], path: Path, out: BinaryIO
) -> None:
    """Check the rows of a metadata.csv and write them as columns.

    Args:
        blocks: its rows, see `read_blocks`.
        header: names of its columns, all of `COLUMNS` among them.
        path: its name, for messages.
        out: empty, open for reading and writing.

    Raises:
        UserError: as the blocks, no rows, or rows that cannot be right (all of them together, the
            first 10 named).
        OSError: `out` cannot be written.
    """
    writer = _Writer(header, out)
    for part in in_threads(writer.look_at, blocks, num_threads(), batch_size=1):
        writer.add(part)
    if not writer.num_rows:
        raise UserError(f"{path} lists no files")
    problems = {**writer.problems, **_repeated(writer)}
    report([f"{path} row {row + FIRST_ROW}: {problems[row]}" for row in sorted(problems)])
    writer.finish()


@dataclass(frozen=True, eq=False)
class _Part:
    """What some rows come to.

    Attributes:
        problems: by row.
        numbers: (rows,) int64, by column.
        texts: bytes of the paths and of the extra columns, row by row.
        ends: of each of these texts, int64.
        first_path: of the first row.
        last_path: of the last row.
        ascends: whether each path comes after the one before it.
        lines: that the fingerprint is made of.
    """

    problems: dict[int, str]
    numbers: dict[str, np.ndarray]
    texts: np.ndarray
    ends: np.ndarray
    first_path: bytes
    last_path: bytes
    ascends: bool
    lines: memoryview | bytes


class _Writer:
    """Writes the texts as they come, and collects what stands after them.

    Args:
        header: names of the columns of the CSV file.
        out: see `write_columns`.
    """

    def __init__(self, header: list[str], out: BinaryIO) -> None:
        self.out, self.num_rows, self.problems = out, 0, dict[int, str]()
        self._places = {name: place for place, name in enumerate(header)}  # of equal names the last
        self.extra_names = [name for name in self._places if name not in COLUMNS]
        # One block of memory each, which the system gets back as a whole.
        self._numbers = {name: bytearray() for name in COLUMNS[1:]}
        self._offsets, self._text_bytes = bytearray(np.zeros(1, "<i8")), 0
        self._last_path, self.ascends = b"", True  # as if a path that is refused stood before all
        self._digest, self._checksum = sha256(), 0

    def look_at(self, read: Callable[[], Block]) -> _Part:
        """Check some rows, in any order; nothing is kept."""
        block, path = read(), self._places[COLUMNS[0]]
        problems, numbers = _wrong_paths(block, path), {}
        for name in self._numbers:
            numbers[name], wrong = _numbers(block, self._places[name], name)
            problems = {**wrong, **problems}  # a row's leftmost problem is told
        texts, lengths = block.texts([path, *(self._places[name] for name in self.extra_names)])
        spans = zip(block.starts[[0, -1], path], block.ends[[0, -1], path], strict=True)
        first_path, last_path = (block.data[start:end] for start, end in spans)
        return _Part(
            problems,
            numbers,
            texts,
            np.cumsum(lengths),
            first_path,
            last_path,
            self.ascends and _ascends(block, path),
            self._lines(block, list(numbers.values())),
        )

    def add(self, part: _Part) -> None:
        """Take rows that were looked at, in their order."""
        self.problems |= {self.num_rows + row: what for row, what in part.problems.items()}
        self.num_rows += len(part.numbers[COLUMNS[1]])
        for name, values in part.numbers.items():
            self._numbers[name] += values.astype(_NUMBERS[name]).data
        self._put(part.texts.data)
        self._offsets += (part.ends + self._text_bytes).astype("<i8").data
        self._text_bytes += len(part.texts)
        self.ascends = self.ascends and part.ascends and self._last_path < part.first_path
        self._last_path = part.last_path
        self._digest.update(part.lines)

    def _lines(self, block: Block, numbers: list[np.ndarray]) -> memoryview | bytes:
        """Return what the fingerprint is made of: of each row `path\\0rate,frames,channels\\n`."""
        places = [self._places[name] for name in COLUMNS]
        first, last = places[0], places[-1]
        characters = block.characters
        has_zeros = (characters[block.starts[:, places[1:]]] == ord("0")).any()
        if places == list(range(first, last + 1)) and not has_zeros:
            # Each stands there, but for the two bytes that end its path and its last number.
            lines = characters.copy()
            lines[block.ends[:, first]] = ord("\0")
            lines[block.ends[:, last]] = ord("\n")
            if block.starts.shape[1] == len(places):
                return lines.data
            return lines[within(len(lines), block.starts[:, first], block.ends[:, last] + 1)].data
        spans = zip(block.starts[:, first].tolist(), block.ends[:, first].tolist(), strict=True)
        paths = (block.data[start:end] for start, end in spans)
        rows = zip(paths, *(values.tolist() for values in numbers), strict=True)
        return b"".join(map(b"%b\0%d,%d,%d\n".__mod__, rows))

    def offsets(self) -> np.ndarray:
        """Return where each text begins, and where the last ends."""
        return np.frombuffer(self._offsets, "<i8")

    def paths(self) -> Iterator[bytes]:
        """Read all paths back."""
        offsets, step = self.offsets(), 1 + len(self.extra_names)
        for first in range(0, len(offsets) - 1, _READ_ROWS * step):
            places = offsets[first : first + _READ_ROWS * step + 1]
            edges = (places - places[0]).tolist()
            self.out.seek(places[0])
            data = self.out.read(edges[-1])
            spans = zip(edges[:-1:step], edges[1::step], strict=True)
            yield from (data[start:end] for start, end in spans)

    def finish(self) -> None:
        """Write what stands after the texts."""
        self.out.seek(0, SEEK_END)
        self._put(bytes(-self._text_bytes % 8))
        self._put(self._offsets)
        for name in ("num_frames", "sample_rate", "num_channels"):
            self._put(self._numbers.pop(name))
        description = {
            "rows": self.num_rows,
            "text_bytes": self._text_bytes,
            "extra_names": self.extra_names,
            "fingerprint": self._digest.hexdigest(),
        }
        text = json.dumps(description).encode()
        self._put(text)
        self.out.write(_FOOTER.pack(len(text), self._checksum, _MAGIC))

    def _put(self, part: bytes | bytearray | memoryview) -> None:
        self._checksum = zlib.crc32(part, self._checksum)
        self.out.write(part)


def check_path(file_path: str) -> None:
    """Refuse a path that is no place under the root.

    Raises:
        ValueError: empty, absolute, or with a `..` or a NUL.
    """
    path = PurePosixPath(file_path)
    if "\0" in file_path:
        raise ValueError(f"file_path {file_path!r} holds a NUL, which no file name can")
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file_path {file_path!r} must be relative to the directory, without ..")


def _wrong_paths(block: Block, place: int) -> dict[int, str]:
    """Return what is wrong with a column of paths, by row."""
    characters = block.characters
    starts, ends = block.starts[:, place], block.ends[:, place]
    # These few are looked at one by one: they may be right.
    dot, slash = b"./"
    odd = (starts == ends) | (characters[starts] == slash)
    odd |= (characters[ends - 1] == dot) | (characters[ends - 1] == slash)
    dots = characters == dot
    for found in (np.flatnonzero(dots[:-1] & dots[1:]), np.flatnonzero(characters == 0)):
        odd[np.maximum(np.searchsorted(starts, found, side="right") - 1, 0)] = True
    return _one_by_one(block, place, odd, check_path)[1]


def _ascends(block: Block, place: int) -> bool:
    """Whether each field of a column is found to come after the one before it, by their bytes."""
    starts, lengths = block.starts[:, place], block.ends[:, place] - block.starts[:, place]
    shortest, longest = int(lengths.min()), int(lengths.max())
    if not 0 < longest <= PADDING:
        return False
    fields = block.windows(starts, longest)
    fields[:, shortest:] *= np.arange(shortest, longest) < lengths[:, None]  # zeros behind each
    ordered = fields.view(f"S{longest}").ravel()
    return bool((ordered[:-1] < ordered[1:]).all())


def _numbers(block: Block, place: int, name: str) -> tuple[np.ndarray, dict[int, str]]:
    """Return a column's (rows,) int64, and what is wrong, by row."""
    characters = block.characters
    ends, lengths = block.ends[:, place], block.ends[:, place] - block.starts[:, place]
    values = np.zeros(len(ends), np.int64)
    right = lengths <= _MOST_DIGITS
    for k in range(min(int(lengths.max()), _MOST_DIGITS)):  # from the last digit on
        digits = (characters[ends - 1 - k] - ord("0")) * (k < lengths)  # uint8: others are > 9
        right &= digits <= 9
        values += digits.astype(np.int64) * 10**k
    right &= (values > 0) & (values <= _MOST[name])
    mended, problems = _one_by_one(block, place, ~right, partial(_number, name=name))
    for row, value in mended.items():
        values[row] = value
    return values, problems


def _one_by_one(
    block: Block, place: int, odd: np.ndarray, read: Callable[[str], T]
) -> tuple[dict[int, T], dict[int, str]]:
    """Look at a column's odd fields one by one.

    Args:
        block: the rows.
        place: of the column.
        odd: (rows,) bool.
        read: makes a value of a field, or raises a ValueError.

    Returns:
        The values, and what is wrong, each by row.
    """
    values, problems = {}, {}
    for row in np.flatnonzero(odd).tolist():
        field = block.data[block.starts[row, place] : block.ends[row, place]].decode()
        try:
            values[row] = read(field)
        except ValueError as error:
            problems[row] = str(error)
    return values, problems


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise ValueError(f"{name} is {text!r}, not a positive whole number")
    digits = text.lstrip("0")
    if len(digits) > _MOST_DIGITS or int(digits) > _MOST[name]:
        raise ValueError(f"{name} is {text!r}, more than {_MOST[name]}")
    return int(digits)


def _repeated(writer: _Writer) -> dict[int, str]:
    """Return the rows whose path stands in an earlier row, of those without another problem."""
    if writer.ascends:
        return {}
    hashes = np.fromiter(map(hash, writer.paths()), np.int64, writer.num_rows)
    ordered = np.sort(hashes)
    suspects = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(suspects):
        return {}
    problems, seen = {}, set()
    both = zip(np.isin(hashes, suspects), writer.paths(), strict=True)
    for row, (is_suspect, path) in enumerate(both):
        if not is_suspect or row in writer.problems:
            continue
        if path in seen:
            problems[row] = f"{path.decode()!r} stands twice"
        seen.add(path)
    return problems
