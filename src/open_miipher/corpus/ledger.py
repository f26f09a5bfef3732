"""The record of an output directory: what is done, under which name, and made by what.

    OUTPUT_DIR/.ledger/
        run.json            what makes the outputs (model, options) and how many runs there were
        names.jsonl         input → output name, given once and for ever
        rank-00000.jsonl    a row for every item that this rank finished, well or badly
        .lock               held by the run that is writing

Rows are only ever appended. A kill can tear the last line of a file; it is ignored and cut off.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from open_miipher.distributed import hold
from open_miipher.errors import UserError

Row = dict[str, Any]


class Ledger:
    """The ledger of one output directory.

    Args:
        directory: the output directory; nothing is written to it before `claim`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / ".ledger"
        self._lock: TextIO | None = None

    def check(self, identity: Mapping[str, Any]) -> None:
        """See that what was made here so far was made by the same model and options.

        Raises:
            UserError: it was not; names the differences.
        """
        recorded = self._run().get("identity", identity)
        different = [
            key for key in {**recorded, **identity} if recorded.get(key) != identity.get(key)
        ]
        if different:
            changes = ", ".join(
                f"{key} was {recorded.get(key)} and is {identity.get(key)}" for key in different
            )
            raise UserError(
                f"{self.directory.parent} holds outputs that were made otherwise ({changes}); "
                "choose another output directory, or --overwrite to make all of them again"
            )

    def claim(self, identity: Mapping[str, Any], overwrite: bool) -> int:
        """Take the directory for this run; it is free again when this process ends.

        Args:
            identity: plain data that tells how outputs are made.
            overwrite: forget what is done, and what it was made by. Names stay.

        Returns:
            The run's number, 1 for the first in this directory.

        Raises:
            UserError: another run has it, it cannot be written, or see `check`.
        """
        self._lock = hold(self.directory)
        if overwrite:
            for path in self._rank_files():
                path.unlink()
        else:
            self.check(identity)
        number = self._run().get("number", 0) + 1
        write_atomically(
            self.directory / "run.json",
            [json.dumps({"number": number, "identity": dict(identity)}, indent=1)],
        )
        return number

    def rows(self) -> dict[str, Row]:
        """Return the newest row of every item, by its id."""
        newest: dict[str, Row] = {}
        for path in self._rank_files():
            for row in read_rows(path):
                if row["run"] >= newest.get(row["id"], row)["run"]:
                    newest[row["id"]] = row
        return newest

    def names(self, extension: str) -> dict[str, str]:
        """Return the output names with this extension (without the dot) given so far, by id."""
        rows = read_rows(self.directory / "names.jsonl")
        return {row["id"]: row["output"] for row in rows if row["output"].endswith(f".{extension}")}

    def add_names(self, names: Mapping[str, str]) -> None:
        """Record new output names by item id."""
        with RowWriter(self.directory / "names.jsonl") as writer:
            writer.write({"id": item, "output": output} for item, output in names.items())

    def writer(self, rank: int) -> "RowWriter":
        """Open this rank's file for rows, each with `run` and `id`."""
        return RowWriter(self.directory / f"rank-{rank:05d}.jsonl")

    def _rank_files(self) -> list[Path]:
        return sorted(self.directory.glob("rank-*.jsonl"))

    def _run(self) -> dict[str, Any]:
        path = self.directory / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}


class RowWriter(AbstractContextManager["RowWriter"]):
    """Appends rows to a file and has them on the disk before it goes on.

    Raises:
        OSError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115 - open until __exit__
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)  # a line torn by a kill

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows."""
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a file; none if it is missing. A last line without its end is left out.

    Raises:
        UserError: another line is no row.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number} is damaged; remove that line, and what it recorded is "
                    "made again"
                ) from error


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a text file under a temporary name, have it on the disk, and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
