"""metadata.csv: one row a file, paths relative to the root, extra columns passed through."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath

from open_miipher.base.atomic import replacing
from open_miipher.base.errors import UserError, report

METADATA_NAME = "metadata.csv"
_COLUMNS = ("file_path", "sample_rate", "num_frames", "num_channels")
_FIRST_ROW = 2  # as an editor counts: the header is row 1


@dataclass(frozen=True)
class Entry:
    """One audio file; its path is also its stable id.

    Attributes:
        file_path: relative to the root, with forward slashes.
        sample_rate: Hz.
        num_frames: length in the file's own frames.
        num_channels: how many.
        extra: further columns (speaker, text, …) by name.
    """

    file_path: str
    sample_rate: int
    num_frames: int
    num_channels: int
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """The audio files of a directory."""

    root: Path
    entries: list[Entry]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over path, rate, frames and channels of every entry, in order."""
        digest = sha256()
        for entry in self.entries:
            numbers = f"{entry.sample_rate},{entry.num_frames},{entry.num_channels}"
            digest.update(f"{entry.file_path}\0{numbers}\n".encode())
        return digest.hexdigest()

    @property
    def num_seconds(self) -> float:
        """Length of all files together."""
        return sum(entry.num_frames / entry.sample_rate for entry in self.entries)


def read_index(root: str | Path) -> Index:
    """Read `root`/metadata.csv; no audio file is touched (see `verify_index`).

    Raises:
        UserError: no directory, no metadata.csv, not CSV, a missing column, no rows, or rows that
            cannot be right (all of them together, the first 10 named).
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a directory")
    path = root / METADATA_NAME
    if not path.exists():
        raise UserError(
            f"{root} has no {METADATA_NAME}; make it with: "
            f"python dataset/script/make_metadata_csv.py --root-dir {root}"
        )
    entries, problems, seen = [], [], set()
    for number, row in enumerate(_rows(path, _COLUMNS), start=_FIRST_ROW):
        try:
            entry = _entry(row)
            if entry.file_path in seen:
                raise ValueError(f"{entry.file_path!r} stands twice")
        except ValueError as error:
            problems.append(f"{path} row {number}: {error}")
            continue
        seen.add(entry.file_path)
        entries.append(entry)
    report(problems)
    if not entries:
        raise UserError(f"{path} lists no files")
    return Index(root, entries)


def read_extra_columns(root: str | Path) -> dict[str, dict[str, str]]:
    """The extra columns of an existing metadata.csv by file path; empty if there is none.

    Raises:
        UserError: the file is not CSV or has no file_path column.
    """
    path = Path(root) / METADATA_NAME
    if not path.exists():
        return {}
    rows = _rows(path, ("file_path",))
    return {row["file_path"]: _extra(row) for row in rows}


def write_index(root: str | Path, entries: Sequence[Entry]) -> Path:
    """Write `root`/metadata.csv in one step, sorted by path; the old one stays until then.

    Args:
        root: the directory that the paths are relative to.
        entries: at least one; an extra column that an entry lacks is left empty.

    Returns:
        The path of the file.

    Raises:
        UserError: the directory cannot be written.
    """
    extra_names = list(dict.fromkeys(name for entry in entries for name in entry.extra))
    path = Path(root) / METADATA_NAME
    try:
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_COLUMNS, *extra_names])
            for entry in sorted(entries, key=lambda entry: entry.file_path):
                extra = [entry.extra.get(name, "") for name in extra_names]
                writer.writerow([*(getattr(entry, name) for name in _COLUMNS), *extra])
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def check_path(file_path: str) -> None:
    """Refuse a path that is no place under the root.

    Raises:
        ValueError: empty, absolute, or with a `..`.
    """
    path = PurePosixPath(file_path)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file_path {file_path!r} must be relative to the directory, without ..")


def _entry(row: dict[str, str]) -> Entry:
    check_path(row["file_path"])
    rate, frames, channels = (_positive(row, name) for name in _COLUMNS[1:])
    return Entry(row["file_path"], rate, frames, channels, _extra(row))


def _positive(row: dict[str, str], name: str) -> int:
    value = row[name]
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError(f"{name} is {value!r}, not a positive whole number")
    return int(value)


def _extra(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in _COLUMNS}


def _rows(path: Path, required: Sequence[str]) -> Iterator[dict[str, str]]:
    with _csv_errors(path), open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        header = next(lines, [])
        missing = [name for name in required if name not in header]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; make it again")
        for number, line in enumerate(lines, start=_FIRST_ROW):
            if len(line) != len(header):
                raise UserError(
                    f"{path} row {number} has {len(line)} columns, the header {len(header)}"
                )
            yield dict(zip(header, line, strict=True))


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not CSV in UTF-8: {error}") from error
