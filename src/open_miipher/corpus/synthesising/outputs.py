"""What synthesis writes: tables of tokens, shards of sound, lists of failures, and their sum."""

import csv
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from open_miipher.base.atomic import is_temporary, replacing, write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row
from open_miipher.corpus.synthesising.texts import plain_index
from open_miipher.shards import Sample, ShardWriter, assign_keys

COLUMNS = (
    *("index", "text", "audio", "tokens", "codebooks", "seconds", "sample_rate"),
    *("backend", "model", "codec", "seed", "attempts"),
)
ALL = "all"
_TABLE, _FAILED = "audio_tokens", "failed_indices"
_PART = re.compile(r"(?:(\w+)_)?(shard-\d{5,}-of-\d{5,}-)?[0-9a-f]{12}\.(csv|parquet|json|tar)")


@dataclass(frozen=True)
class Spoken:
    """A text that was spoken well: its ledger's row, what its table says, and its FLAC file."""

    row: Row
    record: dict[str, Any]
    audio: bytes | None


class Outputs:
    """The files of one output directory.

    Tables are written whole, each with rows of its own, and never changed; so are the lists of
    failures, which the last run to end puts together.

    Args:
        folder: of the outputs.
        format: csv or parquet.
        prefix: of the names of what this task of an array writes.
    """

    def __init__(self, folder: Path, format: str, prefix: str) -> None:
        self._folder, self._format, self._prefix = folder, format, prefix

    def write_part(self, spoken: list[Spoken], failed: list[Row]) -> Iterator[Row]:
        """Write a table of what was spoken, and a list of what failed.

        A file gets its name after its last row is in the ledger. Killed in between, all that it
        holds is made again; the other way round, some of it would be there twice.

        Yields:
            The ledger's rows.

        Raises:
            UserError: the disk refuses.
        """
        name = self._prefix + _name([s.row["id"] for s in spoken] + [r["id"] for r in failed])
        with _told(self._folder), ExitStack() as at_the_end:
            self._folder.mkdir(parents=True, exist_ok=True)
            if failed:
                indices = [plain_index(row["id"]) for row in failed]
                path = self._folder / f"{_FAILED}_{name}.json"
                write_lines(path, [json.dumps(indices)])
            files = []
            if any(each.audio is not None for each in spoken):
                shard = f"audio/{name}.tar"
                (self._folder / shard).parent.mkdir(exist_ok=True)
                temporary = at_the_end.enter_context(replacing(self._folder / shard))
                _write_shard(temporary, shard, spoken)
                files.append([shard, temporary.stat().st_size])
            if spoken:
                table = f"{_TABLE}_{name}.{self._format}"
                temporary = at_the_end.enter_context(replacing(self._folder / table))
                self._write(temporary, (each.record for each in spoken))
                files.append([table, temporary.stat().st_size])
            for each in spoken:
                yield {**each.row, "outputs": [*each.row["outputs"], *files]}
            yield from failed

    def combine(self, tables: Mapping[str, str], shards: Collection[str]) -> None:
        """Put all tables together into audio_tokens.csv (or .parquet), every index once.

        Tables and shards that nothing counts of, and temporary files, are removed: runs were killed
        while they wrote them, or all that they hold was made again.

        Args:
            tables: the name of the table that counts, by index.
            shards: the names of those that hold a sound that counts.
        """
        counted = set(tables.values())
        path = self._folder / f"{_TABLE}.{self._format}"
        for folder in (self._folder, self._folder / "audio"):
            for left in folder.glob(".*.tmp"):
                if is_temporary(left.name):
                    left.unlink()
        kept = {self._folder / name for name in counted.union(shards)}
        for part in [*self._parts(_TABLE), *self._parts(None)]:
            if part not in kept:
                part.unlink()
        records = (
            record
            for name in sorted(counted)
            for record in _read(self._folder / name)
            if tables.get(str(record["index"])) == name
        )
        with _told(path), replacing(path) as temporary:
            self._write(temporary, records)
        for other in {"csv", "parquet"} - {self._format}:  # of a run that was overwritten
            path.with_suffix(f".{other}").unlink(missing_ok=True)

    def list_failures(self, failures: Iterable[Row]) -> None:
        """Write failed.csv and failed_indices_all.json, in place of the lists of single parts.

        Args:
            failures: index, text, attempts and reason of each.
        """
        failures = list(failures)
        whole = self._folder / f"{_FAILED}_{ALL}.json"
        with _told(self._folder):
            _write_csv(
                self._folder / "failed.csv", failures, ("index", "text", "attempts", "reason")
            )
            write_lines(whole, [json.dumps([plain_index(row["index"]) for row in failures])])
        for path in self._parts(_FAILED):
            path.unlink()

    def _parts(self, kind: str | None) -> list[Path]:
        """Return the files that `write_part` made, and no others: tables, failures, or shards."""
        folder = self._folder / "audio" if kind is None else self._folder
        found = ((path, _PART.fullmatch(path.name)) for path in folder.glob("*"))
        return [path for path, match in found if match is not None and match[1] == kind]

    def _write(self, path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        (_write_csv if self._format == "csv" else _write_parquet)(path, records)


def _write_shard(path: Path, name: str, spoken: list[Spoken]) -> None:
    """Write sound and text into a tar, and into the records where in it the sound is."""
    keys = assign_keys(Path(each.row["audio"]).name for each in spoken)
    with ShardWriter(path) as shard:
        for each, key in zip(spoken, keys, strict=True):
            text = each.record["text"].encode()
            shard.add(Sample(key, {"flac": each.audio or b"", "txt": text}))
            each.record["audio"] = f"{name}#{key}.flac"


def _name(indices: Iterable[str]) -> str:
    """Name what is made of these: made again, it replaces itself."""
    return sha256("\n".join(sorted(indices)).encode()).hexdigest()[:12]


def _write_csv(
    path: Path, records: Iterable[Mapping[str, Any]], columns: tuple[str, ...] = COLUMNS
) -> None:
    # What a backend raises, and so a reason, may be no text that has a UTF-8.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            writer.writerow(_as_text(record[column]) for column in columns)


def _as_text(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return " ".join(map(str, value.ravel().tolist()))
    return value.replace("\r", " ") if isinstance(value, str) else value


def _write_parquet(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    text, whole = pyarrow.string(), pyarrow.int64()
    kinds = {
        **dict.fromkeys(COLUMNS, text),
        **dict.fromkeys(("codebooks", "sample_rate", "seed", "attempts"), whole),
        "tokens": pyarrow.list_(pyarrow.int16()),
        "seconds": pyarrow.float64(),
    }
    schema = pyarrow.schema(list(kinds.items()))
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows = list[Mapping[str, Any]]()
        for record in records:
            rows.append({**record, "tokens": np.asarray(record["tokens"]).ravel().tolist()})
            if len(rows) == 1000:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".csv":
        csv.field_size_limit(sys.maxsize)  # the tokens of many minutes
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
        return
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(1000):
            yield from batch.to_pylist()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = printable(error.filename or path)
        raise UserError(f"{where} cannot be written: {error.strerror}") from error
