"""The record of an output directory: what is done, under which name, and made by what.

    OUTPUT_DIR/.ledger/
        run.json            what makes the outputs (model, options), how many runs there were, and
                            which runs' rows were forgotten by --overwrite
        names.jsonl         input → output name, given once and for ever
        runs.jsonl          what each run found to do, and how it ended
        rank-00000.jsonl    a row for every item that this rank finished, well or badly
        samples/000.tar.jsonl   what became of each sample, where an item is a shard of many
        .lock               held by the run that is writing; shared by the tasks of a job array
        .turn               held for moments, by who decides something for all
        REQUEUE             a signal ended the run early
        shard-00001-of-00004/   .lock, runs.jsonl, rank files and REQUEUE of a task of an array

What is done is known from the rows of all folders together, so that an item counts whoever made it.
"""

import json
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_miipher.base.atomic import write_lines
from open_miipher.base.errors import UserError
from open_miipher.corpus.naming import Assign, assign_names
from open_miipher.corpus.rows import Row, RowReader, RowWriter, read_rows
from open_miipher.corpus.shard import Shard, place
from open_miipher.corpus.tenancy import Tenancy, turn

FORGOTTEN = "forgotten"
"""Key of a row that says: what was known of this item no longer counts; and, in run.json, of the
first run that counts, by number of shards and shard."""

GROUP_SIZE = "samples_per_shard"
"""Key of an identity: it decides names, which stay whatever is overwritten."""


class Ledger:
    """The ledger of one output directory, as one of its tasks sees it.

    Args:
        directory: the output directory; nothing is written to it before `claim`.
        shard: the task of a job array, or None for a run over all items.
    """

    def __init__(self, directory: Path, shard: Shard | None = None) -> None:
        self.root = directory / ".ledger"
        self.shard = shard
        self.directory = self.root if shard is None else self.root / shard.folder
        self.number = 0
        self._tenancy = Tenancy(self.root, shard)

    def check(self, identity: Mapping[str, Any]) -> None:
        """See that what was made here so far was made by the same model and options.

        Raises:
            UserError: it was not; names the differences.
        """
        recorded = self.state().get("identity", identity)
        different = [
            key for key in {**recorded, **identity} if recorded.get(key) != identity.get(key)
        ]
        if different:
            changes = ", ".join(
                f"{key} was {recorded.get(key)} and is {identity.get(key)}" for key in different
            )
            raise UserError(
                f"{self.root.parent} holds outputs that were made otherwise ({changes}); "
                "choose another output directory, or make all of them again (--overwrite, or "
                "preprocess.overwrite=true)"
            )

    def claim(self, identity: Mapping[str, Any], overwrite: bool = False) -> int:
        """Take the place of this task; it is free again when this process ends.

        Args:
            identity: plain data that tells how outputs are made.
            overwrite: forget what is done; by a task of an array, what it has itself to do, but
                all of it if it was made otherwise. Names stay.

        Returns:
            The run's number, greater than that of every run before it in this directory.

        Raises:
            UserError: another one is at work there, it cannot be written, names would change, or
                see `check`.
        """
        with turn(self.root):
            self._tenancy.begin()
            state = self.state()
            if not overwrite:
                self.check(identity)
            else:
                self._check_names_fit(state.get("identity", identity), identity)
            self.number = state.get("number", 0) + 1
            forgotten = state.get(FORGOTTEN, {})
            if overwrite and self.shard is not None and state.get("identity") == identity:
                of_count = forgotten.setdefault(str(self.shard.count), {})
                of_count[str(self.shard.index)] = self.number
            elif overwrite:
                forgotten = {"1": {"0": self.number}}  # shard 0 of 1: everything
            state = {"number": self.number, "identity": dict(identity), FORGOTTEN: forgotten}
            write_lines(self.root / "run.json", [json.dumps(state, indent=1)])
        return self.number

    def _check_names_fit(self, recorded: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        size, wanted = recorded.get(GROUP_SIZE), identity.get(GROUP_SIZE)
        if size != wanted:
            raise UserError(
                f"{self.root.parent} was begun with {GROUP_SIZE}={size}, which decides names, and "
                f"now it is {wanted}; keep it, or choose another output directory"
            )

    @contextmanager
    def alone_at_the_end(self) -> Iterator[bool]:
        """See `Tenancy.alone_at_the_end`."""
        with self._tenancy.alone_at_the_end() as alone:
            yield alone

    def rows(
        self, wanted: Collection[str] | None = None, fields: Collection[str] | None = None
    ) -> dict[str, Row]:
        """Return the newest row of every item, by its id, from all folders.

        Args:
            wanted: of these items only.
            fields: keep no others (`run` and `id` always); rows of millions of items are many.
        """
        kept = None if fields is None else {"run", "id", FORGOTTEN, *fields}
        newest: dict[str, Row] = {}
        for row in self.all_rows():
            item = row["id"]
            if wanted is not None and item not in wanted:
                continue
            if item not in newest or row["run"] >= newest[item]["run"]:
                newest[item] = row if kept is None else {k: row[k] for k in kept & row.keys()}
        return {item: row for item, row in newest.items() if FORGOTTEN not in row}

    def sorted_rows(self) -> Iterator[Row]:
        """Yield the newest row of every item of all tasks, by id; until then they wait as text."""
        newest: dict[str, tuple[int, bytes]] = {}
        for row in Ledger(self.root.parent).all_rows():
            item = row["id"]
            if item not in newest or row["run"] >= newest[item][0]:
                text = b"" if FORGOTTEN in row else json.dumps(row).encode()
                newest[item] = row["run"], text
        for item in sorted(newest):
            text = newest.pop(item)[1]
            if text:
                yield json.loads(text)

    def all_rows(self) -> Iterator[Row]:
        """Yield every row that counts and that this task's items may have, in no order."""
        forgotten = self.state().get(FORGOTTEN, {})
        for folder in self.folders():
            for path in sorted(folder.glob("rank-*.jsonl")):
                for row in read_rows(path):
                    if not forgotten or row["run"] >= _first_that_counts(forgotten, row["id"]):
                        yield row

    def folders(self) -> list[Path]:
        """Return the folders with rows that this task's items may have."""
        shards = {path: Shard.from_folder(path.name) for path in sorted(self.root.glob("shard-*"))}
        own = self.shard
        return [self.root] + [
            path
            for path, shard in shards.items()
            if shard is not None and (own is None or own.may_share_with(shard))
        ]

    def forget(self, items: Mapping[str, float]) -> None:
        """Record that nothing is known of these items, given with their seconds; after `claim`."""
        with self.writer(0) as writer:
            writer.write(
                {"run": self.number, "id": item, "seconds": seconds, FORGOTTEN: True}
                for item, seconds in items.items()
            )

    def first_that_counts(self, shard: Shard | None) -> int:
        """Return the number of the first run whose plan for a task was not forgotten."""
        forgotten = self.state().get(FORGOTTEN, {})
        own = (str(shard.count), str(shard.index)) if shard is not None else ("1", "0")
        return max(forgotten.get(count, {}).get(index, 0) for count, index in (("1", "0"), own))

    def names(self, extension: str) -> dict[str, str]:
        """Return the output names with this extension (without the dot) given so far, by id."""
        return dict(_names(RowReader(self.root / "names.jsonl"), extension))

    def name_all(
        self, items: Collection[str], extension: str, assign: Assign = assign_names
    ) -> dict[str, str]:
        """Give every item an output name, for ever, and return all names by item id.

        Tasks that start at once wait for one of them to name, and read what it wrote.

        Args:
            items: all of the corpus, not only this task's.
            extension: of the outputs.
            assign: how those that have none yet are named.
        """
        path = self.root / "names.jsonl"
        reader, given = RowReader(path), dict[str, str]()
        while True:
            given.update(_names(reader, extension))
            if all(item in given for item in items):
                return given
            with turn(self.root):
                if reader.has_more():
                    continue  # another one was first: read it outside, so that nobody waits
                new = assign(items, given, extension)
                with RowWriter(path) as writer:
                    writer.write({"id": item, "output": output} for item, output in new.items())
            return {**given, **new}

    def samples_path(self, item: str) -> Path:
        """Return where the samples of an item are listed."""
        return self.root / "samples" / f"{item}.jsonl"

    def write_samples(self, item: str, samples: Iterable[Row]) -> None:
        """List the samples of an item, before its own row is written."""
        path = self.samples_path(item)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, map(json.dumps, samples))

    def samples(self, item: str) -> Iterator[Row]:
        """Yield what became of each sample of an item, in order.

        Raises:
            UserError: the list is gone.
        """
        path = self.samples_path(item)
        if not path.exists():
            raise UserError(
                f"{path} is missing, which lists the samples of {item}; restore with --overwrite"
            )
        yield from read_rows(path)

    def writer(self, rank: int) -> RowWriter:
        """Open this rank's file for rows, each with `run` and `id`."""
        return RowWriter(self.directory / f"rank-{rank:05d}.jsonl")

    def log(self, event: str, **fields: Any) -> None:
        """Record what this run found to do, or how it ended."""
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        with RowWriter(self.directory / "runs.jsonl") as writer:
            writer.write(
                [
                    {
                        "run": self.number,
                        "event": event,
                        "time": round(time.time(), 3),
                        **who,
                        **fields,
                    }
                ]
            )

    def state(self) -> dict[str, Any]:
        """Return the content of run.json; empty if there is none."""
        path = self.root / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}


def _names(reader: RowReader, extension: str) -> Iterator[tuple[str, str]]:
    suffix = f".{extension}"
    for row in reader.read():
        if row["output"].endswith(suffix):
            yield row["id"], row["output"]


def _first_that_counts(forgotten: Mapping[str, Mapping[str, int]], item: str) -> int:
    return max(shards.get(str(place(item, int(count))), 0) for count, shards in forgotten.items())
