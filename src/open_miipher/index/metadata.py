"""metadata.csv: one row a file, paths relative to the root, extra columns passed through."""

import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from open_miipher.base.atomic import replacing
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.index.cache import load_columns, map_columns
from open_miipher.index.columns import COLUMNS, Columns
from open_miipher.index.foreign import index_command, match_rows
from open_miipher.index.rows import csv_errors, read_header, read_rows

METADATA_NAME = "metadata.csv"
_NEEDS_QUOTES = re.compile('[",\r\n]')


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


@dataclass(frozen=True, eq=False)
class Index:
    """The audio files of a directory: a sequence of entries, each made when it is asked for.

    A large one is mapped from a file that all processes of the machine share, also those it is
    pickled for (see `index.cache`).

    Attributes:
        root: the directory.
        columns: all rows.
    """

    root: Path
    columns: Columns

    def __len__(self) -> int:
        return len(self.columns.num_frames)

    def __getitem__(self, row: int) -> Entry:
        columns = self.columns
        if not 0 <= row < len(self):
            raise IndexError(f"{self.root} has {len(self)} rows, no row {row}")
        names = enumerate(columns.extra_names, start=1)
        return Entry(
            columns.text(row, 0),
            int(columns.sample_rate[row]),
            int(columns.num_frames[row]),
            int(columns.num_channels[row]),
            {name: columns.text(row, column) for column, name in names},
        )

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.columns.file is None:
            return Index, (self.root, self.columns)
        return _mapped, (self.root, self.columns.file)

    @property
    def entries(self) -> list[Entry]:
        """All rows; of millions, ask for one at a time instead."""
        return list(self)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over path, rate, frames and channels of every entry, in order."""
        return self.columns.fingerprint


def _mapped(root: Path, file: Path) -> Index:
    return Index(root, map_columns(file))


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
        raise UserError(f"{root} has no {METADATA_NAME}; make it with: {index_command(root)}")
    return Index(root, load_columns(path))


def read_extra_columns(root: str | Path) -> dict[str, dict[str, str]]:
    """The extra columns of an existing metadata.csv by file path; empty if there is none.

    Raises:
        UserError: the file is not CSV or has no file_path column.
    """
    path = Path(root) / METADATA_NAME
    if not path.exists():
        return {}
    with csv_errors(path), FileIO(path) as file:
        header = read_header(file, path, COLUMNS[:1])
        rows = [dict(zip(header, row, strict=True)) for row in read_rows(file, path)]
    return {row["file_path"]: _without_own(row) for row in rows}


def read_foreign_columns(root: str | Path, file_paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """The columns of another program's metadata.csv by file path, for the files it has rows of.

    Raises:
        UserError: the file is no table.
    """
    path = Path(root) / METADATA_NAME
    rows = match_rows(path, file_paths) if path.exists() else {}
    return {file_path: _without_own(row) for file_path, row in rows.items()}


def _without_own(row: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in row.items() if name not in COLUMNS}


def keep_old(root: str | Path) -> Path | None:
    """Copy `root`/metadata.csv to metadata.csv.old, or .old2, …; return the copy's path.

    None if there is no such file.

    Raises:
        UserError: it cannot be copied.
    """
    path = Path(root) / METADATA_NAME
    if not path.exists():
        return None
    names = (f"{path}.old{number if number > 1 else ''}" for number in itertools.count(1))
    kept = next(Path(name) for name in names if not os.path.lexists(name))
    try:
        with replacing(kept) as temporary:
            shutil.copy2(path, temporary)
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be kept: {error.strerror}") from error
    return kept


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
            file.write(_csv_line([*COLUMNS, *extra_names]))
            for entry in sorted(entries, key=lambda entry: entry.file_path):
                extra = [entry.extra.get(name, "") for name in extra_names]
                own = (str(getattr(entry, name)) for name in COLUMNS)
                file.write(_csv_line([*own, *extra]))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _csv_line(fields: Iterable[str]) -> str:
    """Return a row; Python's csv module leaves a carriage return, which ends a row, unquoted."""
    quoted = (
        '"{}"'.format(field.replace('"', '""')) if _NEEDS_QUOTES.search(field) else field
        for field in fields
    )
    return ",".join(quoted) + "\n"
