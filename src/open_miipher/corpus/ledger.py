"""The record of an output directory: what is done, under which name, and made by what.

    OUTPUT_DIR/.ledger/
        run.json            what makes the outputs (model, options), how many runs there were, and
                            the folders that ids begin below (`roots`)
        names.jsonl         input → output name, given once and for ever
        gone.jsonl          which items the newest run was not asked for; their outputs stay
        runs.jsonl          what each run found to do, and how it ended
        rank-00000.jsonl    a row for every item that this rank finished, well or badly, and for
                            every item that is to be made again (`forgotten`)
        samples/000.tar.jsonl   what became of each sample, where an item is a shard of many
        .lock               held by the run that is writing; shared by the tasks of a job array
        .turn               held for moments, by who decides something for all
        REQUEUE             a signal ended the run early
        shard-00001-of-00004/   .lock, runs.jsonl, rank files and REQUEUE of a task of an array

The newest row of an item counts, whichever folder it is in. Rows are only ever appended.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from open_miipher.base.atomic import write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable, size_of
from open_miipher.base.rows import Row, RowWriter, read_rows
from open_miipher.corpus.array import OF_RESTORING, ArrayTask, OptionNames, Tenancy, place
from open_miipher.distributed import turn

FORGOTTEN = "forgotten"
"""Key of a row that says: what was known of this item no longer counts."""

GROUP_SIZE = "samples_per_shard"
"""Key of an identity: it decides names, which stay whatever is overwritten."""

MANIFEST_NAME = "manifest.jsonl"
"""In the output directory: what became of every input that was restored, one a line."""

_PRIVATE = ("run", "time", "id", "stamp", "output_bytes")
"""Keys of a row that are the ledger's own business, and not the manifest's."""

Assign = Callable[[Collection[str], Mapping[str, str], str], dict[str, str]]
"""Gives names of outputs to inputs: from all inputs, the names given before, and the extension."""


class Ledger:
    """The ledger of an output directory, as a run over all items or an array's task sees it.

    Nothing is written to the directory before `claim`.

    Args:
        directory: of the outputs.
        array_task: the task; None: all items.
        options: what messages call the options.
    """

    def __init__(
        self,
        directory: Path,
        array_task: ArrayTask | None = None,
        options: OptionNames = OF_RESTORING,
    ) -> None:
        self._options = options
        self.root = directory / ".ledger"
        self.array_task = array_task
        self.directory = self.root if array_task is None else self.root / array_task.folder
        self.number = 0
        self.tenancy = Tenancy(self.root, array_task, options)

    def check(self, identity: Mapping[str, Any]) -> None:
        """See that what was made here so far was made by the same model and options.

        Raises:
            UserError: it was not; names the differences.
        """
        recorded = self.state().get("identity", identity)
        changes = [
            f"{key} was {recorded.get(key)} and is {identity.get(key)}"
            for key in {**recorded, **identity}
            if recorded.get(key) != identity.get(key)
        ]
        if changes:
            raise UserError(
                f"{self.root.parent} holds outputs that were made otherwise ({', '.join(changes)});"
                " choose another output directory, or make all of them again "
                f"({self._options.overwrite})"
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
            self.tenancy.begin()
            state = self.state()
            self.number = (state.get("number") or self._newest_run()) + 1
            if overwrite:  # before the new identity is there: a kill leaves the old one's rows
                self._forget_what_is_done(state.get("identity", identity), identity)
                state.pop("roots", None)
            else:
                self.check(identity)
            state |= {"number": self.number, "identity": dict(identity)}
            write_lines(self.root / "run.json", [json.dumps(state, indent=1)])
        return self.number

    def _newest_run(self) -> int:
        """Return the number of the newest run by the rows: run.json may have been removed."""
        return max((row["run"] for row in Ledger(self.root.parent).all_rows()), default=0)

    def withdraw(self) -> None:
        """Let any other command begin here, if nothing was made yet: the plan came to nothing."""
        if self.array_task is None and next(self.all_rows(), None) is None:  # else others may be on
            for name in ("names.jsonl", "gone.jsonl", "runs.jsonl", "run.json"):
                (self.root / name).unlink(missing_ok=True)

    def _forget_what_is_done(
        self, recorded: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        """Forget this task's items, or those of all if they were made otherwise."""
        size, wanted = recorded.get(GROUP_SIZE), identity.get(GROUP_SIZE)
        if size != wanted:
            raise UserError(
                f"{self.root.parent} was begun with {GROUP_SIZE}={size}, which decides names, and "
                f"now it is {wanted}; keep it, or choose another output directory"
            )
        whole = Ledger(self.root.parent)  # whose rows every task reads
        whole.number = self.number
        if self.array_task is None or recorded != identity:
            whole.forget(whole.rows(fields=("seconds",)))
        else:
            rows = self.rows(fields=("seconds",))
            self.forget({item: rows[item] for item in self.array_task.own(rows)})

    def rows(
        self, wanted: Collection[str] | None = None, fields: Collection[str] | None = None
    ) -> dict[str, Row]:
        """Return the newest row of every item that is not forgotten, by its id.

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
        """Yield the newest row of every item of all tasks, by id; until then they wait as text.

        Items that are not asked for any more are left out.
        """
        newest: dict[str, tuple[int, bytes]] = {}
        gone = self.gone()
        for row in Ledger(self.root.parent).all_rows():
            item = row["id"]
            if item in gone:
                continue
            if item not in newest or row["run"] >= newest[item][0]:
                text = b"" if FORGOTTEN in row else json.dumps(row).encode()
                newest[item] = row["run"], text
        for item in sorted(newest):
            text = newest.pop(item)[1]
            if text:
                yield json.loads(text)

    def all_rows(self) -> Iterator[Row]:
        """Yield every row that this task's items may have; within a run, in order of writing."""
        since = self.state().get(FORGOTTEN, {})
        for folder in self.folders():
            for path in sorted(folder.glob("rank-*.jsonl")):
                for row in read_rows(path):
                    if not since or row["run"] >= _first_that_counts(since, row["id"]):
                        yield row

    def folders(self) -> list[Path]:
        """Return the folders with rows that this task's items may have."""
        own, folders = self.array_task, [self.root]
        for path in sorted(self.root.glob("shard-*")):
            task = ArrayTask.from_folder(path.name)
            if task is not None and (own is None or own.may_share_with(task)):
                folders.append(path)
        return folders

    def forget(self, rows: Mapping[str, Row]) -> None:
        """Record that nothing is known of these items, given with their rows; after `claim`."""
        with self.writer(0) as writer:
            writer.write(
                {"run": self.number, "id": i, "seconds": row.get("seconds") or 0.0, FORGOTTEN: True}
                for i, row in rows.items()
            )

    def names(self, extension: str) -> dict[str, str]:
        """Return the output names with this extension (without the dot) given so far, by id."""
        rows = read_rows(self.root / "names.jsonl")
        return {r["id"]: r["output"] for r in rows if r["output"].endswith(f".{extension}")}

    def name_all(self, items: Collection[str], extension: str, assign: Assign) -> dict[str, str]:
        """Give every item of the corpus an output name, for ever, and return all names by id.

        Tasks that start at once wait for one of them to name, and read what it wrote.
        """
        path = self.root / "names.jsonl"
        while True:
            size = size_of(path)
            given = self.names(extension)
            if all(item in given for item in items):
                return given
            with turn(self.root):
                if size_of(path) != size:
                    continue  # another one was first: read it outside, so that nobody waits
                new = assign(items, given, extension)
                with RowWriter(path) as writer:
                    writer.write({"id": item, "output": output} for item, output in new.items())
            return {**given, **new}

    def roots(self) -> list[str]:
        """Return the folders that the ids of earlier runs began below."""
        return list(self.state().get("roots", []))

    def add_root(self, root: str) -> None:
        """Record that ids begin below this folder."""
        if root not in self.roots():
            with turn(self.root):
                state = self.state()
                state["roots"] = [*state.get("roots", []), root]
                write_lines(self.root / "run.json", [json.dumps(state, indent=1)])

    def gone(self) -> frozenset[str]:
        """Return the items of earlier runs that the newest one was not asked for."""
        return frozenset(row["id"] for row in read_rows(self.root / "gone.jsonl"))

    def record_gone(self, items: Collection[str]) -> None:
        """Record which items of earlier runs are not asked for; they count again once they are."""
        with turn(self.root):
            if self.gone() != frozenset(items):
                lines = (json.dumps({"id": item}) for item in sorted(items))
                write_lines(self.root / "gone.jsonl", lines)

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

    def listed(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the manifest's lines: of a shard those of its samples, else the item's own."""
        for row in rows:
            if "num_samples" in row:
                yield from self.samples(row["id"])
            else:
                yield {key: value for key, value in row.items() if key not in _PRIVATE}

    def writer(self, rank: int) -> RowWriter:
        """Open this rank's file for rows, each with `run` and `id`.

        An item whose row is lost with the machine's power is done again, so that rows may share
        their way to the disk; its output was there before.
        """
        return RowWriter(self.directory / f"rank-{rank:05d}.jsonl", sync_every=1.0)

    def log(self, event: str, **fields: Any) -> None:
        """Record what this run found to do, or how it ended."""
        when = {"run": self.number, "event": event, "time": round(time.time(), 3)}
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        with RowWriter(self.directory / "runs.jsonl") as writer:
            writer.write([{**when, **who, **fields}])

    def state(self) -> dict[str, Any]:
        """Return the content of run.json; empty if there is none.

        Raises:
            UserError: it is damaged.
        """
        path = self.root / "run.json"
        if not path.exists():
            return {}
        try:
            state = json.loads(path.read_bytes())
        except ValueError:
            state = None
        if not isinstance(state, dict):
            raise UserError(
                f"{printable(path)} is damaged; remove it, and start the same command again: what "
                "is done stays known"
            )
        return state


def _first_that_counts(since: Mapping[str, Mapping[str, int]], item: str) -> int:
    """Return an item's first run that counts, by the table in run.json of older ledgers.

    By number of array tasks and task, it holds the first run whose rows `--overwrite` let count.
    """
    return max(tasks.get(str(place(item, int(count))), 0) for count, tasks in since.items())
