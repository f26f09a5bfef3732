"""Sets of texts: files of this machine, and those of the hub; and files of their indices."""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from open_miipher.base.atomic import write_lines
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.corpus.array import place
from open_miipher.corpus.inputs import Inputs
from open_miipher.corpus.run import Item
from open_miipher.corpus.synthesising.config import DatasetConfig
from open_miipher.synthesis.judging import BadText, as_spoken, expected_seconds

_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_INDEX = re.compile(r"[\w.-]{1,100}", re.ASCII)
_IF_SURE = "remove it if you are sure of which set the indices are"
_EXTRA = "`pip install '.[synthesis]'`"


class Texts(Inputs):
    """The texts of a set; an item is a text, and its id its index.

    Args:
        config: of the set; it is read at once.
        characters_per_second: how fast they are spoken.

    Attributes:
        texts: by index; what is no text is what the set holds.
        fingerprint: of all indices and texts, 16 hexadecimal digits.

    Raises:
        UserError: the set cannot be read, lacks a column, or has an index twice or a bad one.
    """

    unit = "texts"

    def __init__(self, config: DatasetConfig, characters_per_second: float) -> None:
        self._config, self._characters_per_second = config, characters_per_second
        self.texts: dict[str, Any] = {}
        digest, problems, stems = hashlib.sha256(), list[str](), dict[str, str]()
        for index, text in _read(config):
            stem = _stem(index)
            if not _INDEX.fullmatch(index):
                problems.append(
                    f"{config.name}: the index {index[:100]!r} is none; indices are whole numbers, "
                    "or up to 100 letters, digits, dots, hyphens and underscores"
                )
            elif stems.get(stem) == index:
                problems.append(f"{config.name}: the index {index} stands there twice")
            elif stem in stems:
                problems.append(
                    f"{config.name}: the indices {stems[stem]} and {index} are one name of a file, "
                    f"{stem}; write such numbers in one way"
                )
            else:
                stems[stem] = index
                self.texts[index] = text
                digest.update(json.dumps([index, text], default=repr).encode())
        report(problems)
        if not self.texts:
            raise UserError(f"{config.name} holds no texts")
        self.fingerprint = digest.hexdigest()[:16]

    def check(self, output_dir: Path) -> None:
        """Nothing comes from the output directory."""

    def ids(self) -> list[str]:
        """Return all indices."""
        return sorted(self.texts)

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Name the sounds after their indices, some thousands in a folder."""
        return {i: f"{_audio_path(i)}.{extension}" for i in items if i not in given}

    def stamp(self, item: str) -> str:
        """Return another word when the text changed."""
        return hashlib.sha256(repr(self.texts[item]).encode()).hexdigest()[:16]

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Return a text with how long it should take."""
        limit = self._config.max_characters
        text = as_spoken(self.texts[item], limit, "dataset.max_characters")
        if isinstance(text, BadText):
            return Item(item, output, 0.0, stamp, text)
        seconds = expected_seconds(text, self._characters_per_second)
        return Item(item, output, seconds, stamp, text)

    def open(self, item: Item) -> Iterator[str]:
        """Give the text."""
        yield item.details

    def wanted(self) -> list[str] | None:
        """Return the indices that `remaining_indices_file` holds; None without one.

        Raises:
            UserError: it is missing or damaged, of another set, or holds what is no index of this.
        """
        if self._config.remaining_indices_file is None:
            return None
        path = Path(self._config.remaining_indices_file)
        told = _beside(path)
        if told.exists() and _read_fingerprint(told) != self.fingerprint:
            raise UserError(
                f"{printable(path)} (dataset.remaining_indices_file) holds indices of another set, "
                f"or of another state of {self._config.name}; give the set that it was written "
                f"for, or remove {printable(told.name)} if you are sure"
            )
        found = read_indices(path)
        strange = [index for index in found if index not in self.texts]
        if strange:
            raise UserError(
                f"{printable(path)} holds {len(strange)} indices that {self._config.name} does not "
                f"have, such as {strange[0]!r}"
            )
        return sorted(set(found))

    def write_remaining(self, indices: Iterable[str]) -> None:
        """Write what is left into `remaining_indices_file`, and beside it of which set it is."""
        path = Path(str(self._config.remaining_indices_file))
        about = {"fingerprint": self.fingerprint, "dataset": self._config.name}
        write_lines(_beside(path), [json.dumps(about)])
        if path.suffix == ".json":
            write_lines(path, [json.dumps([plain_index(index) for index in indices])])
        else:
            write_lines(path, indices)


def plain_index(index: str) -> int | str:
    """Return an index as JSON has it: a number if it is one."""
    return int(index) if index.isdecimal() and str(int(index)) == index else index


def read_indices(path: Path) -> list[str]:
    """Read a file of indices: a JSON list, or one a line.

    Raises:
        UserError: it is missing, or no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.split()
    except (OSError, ValueError) as error:
        raise UserError(f"the indices {printable(path)} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(type(i) in (int, str) for i in found):
        raise UserError(f"{printable(path)} must hold a list of indices: [0, 7, 12]")
    return [str(index) for index in found]


def _beside(path: Path) -> Path:
    """Return the file that tells of which set the indices in `path` are."""
    return path.with_name(f"{path.name}.dataset.json")


def _read_fingerprint(path: Path) -> str:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(path)} cannot be read: {error}; {_IF_SURE}") from error
    if not isinstance(about, dict) or not isinstance(about.get("fingerprint"), str):
        raise UserError(f"{printable(path)} holds no fingerprint of a set; {_IF_SURE}")
    return str(about["fingerprint"])


def _stem(index: str) -> str:
    return index.zfill(8) if isinstance(plain_index(index), int) else index


def _audio_path(index: str) -> str:
    """Return the path of an index's sound, without its ending."""
    stem = _stem(index)
    is_number = isinstance(plain_index(index), int)
    return f"audio/{stem[:-4] if is_number else format(place(index, 256), '02x')}/{stem}"


def _read(config: DatasetConfig) -> Iterator[tuple[str, Any]]:
    """Yield index and text of every row."""
    columns = [config.text_column, *([config.index_column] if config.index_column else [])]
    for number, row in enumerate(_rows(str(config.name), config.split, columns)):
        if number == 0:
            for key, column in zip(("text_column", "index_column"), columns, strict=False):
                if column not in row:
                    raise UserError(
                        f"{config.name} has no column {column}, but {', '.join(map(str, row))}; "
                        f"say by dataset.{key} which it is"
                    )
        index = number if config.index_column is None else row.get(config.index_column)
        if type(index) not in (int, str):  # a bool is an int
            raise UserError(
                f"{config.name}: in row {number}, counted from 0, dataset.index_column="
                f"{config.index_column} holds {index!r}; indices are whole numbers or names"
            )
        yield str(index), row.get(config.text_column)


def _rows(name: str, split: str, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _FILES and not path.is_file():
        yield from _set_rows(name, path, split, columns)
        return
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix in (".csv", ".tsv"):
            csv.field_size_limit(sys.maxsize)
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
        elif suffix in (".jsonl", ".json"):
            with path.open(encoding="utf-8") as file:
                is_list = suffix == ".json" and file.read(1000).lstrip().startswith("[")
                file.seek(0)
                yield from (_json_list if is_list else _json_rows)(path, file)
        elif suffix == ".txt":
            with path.open(encoding="utf-8-sig") as file:
                yield from ({columns[0]: line.rstrip("\n")} for line in file)
        else:
            raise UserError(f"{printable(path)}: give a file that ends in {', '.join(_FILES)}")
    except (OSError, UnicodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"dataset.name={printable(path)} cannot be read: {reason}") from error


def _json_list(path: Path, file: TextIO) -> Iterator[Mapping[str, Any]]:
    try:
        rows = json.load(file)
    except ValueError as error:
        raise UserError(f"{printable(path)}: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{printable(path)}: entry {number}, counted from 0, is no JSON object")
        yield row


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            where = f"{printable(path)}, line {number}, column {error.colno}"
            raise UserError(f"{where}: {error.msg}") from error
        except ValueError as error:  # a number of thousands of digits
            raise UserError(f"{printable(path)}, line {number}: {error}") from error
        if row is not None:
            if not isinstance(row, dict):
                raise UserError(f"{printable(path)}, line {number} is no JSON object")
            yield row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{printable(path)} needs pyarrow: {_EXTRA}") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{printable(path)} is no parquet file: {error}") from error


def _set_rows(name: str, path: Path, split: str, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a set of the hub, or of a folder that `datasets` saved."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"dataset.name={name} needs the package datasets: {_EXTRA}") from error
    from open_miipher.encoders.pretrained import hub_answers

    datasets.disable_progress_bars()
    try:
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            found = datasets.load_from_disk(str(path))
            found = found[split] if isinstance(found, datasets.DatasetDict) else found
        else:
            if not path.is_dir():
                datasets.config.HF_HUB_OFFLINE = not hub_answers()
            found = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"dataset.name={name} is no file here, and its split {split} could not be read from "
            f"the hub or its cache ({reason}); `hf download --repo-type dataset {name}` fetches it "
            "where there is a network, or give a jsonl, csv, parquet or txt file"
        ) from error
    kept = [column for column in columns if column in found.column_names]
    yield from found.select_columns(kept) if len(kept) == len(columns) else found
