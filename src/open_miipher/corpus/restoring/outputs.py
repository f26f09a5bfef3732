"""What all restorations have in common, whether they write files or shards."""

import json
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AudioInfo
from open_miipher.audio.resample import num_output_frames
from open_miipher.base.atomic import remove_leftovers, write_lines
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.naming import Assign
from open_miipher.corpus.restoring.file_format import FileFormat
from open_miipher.corpus.restoring.listing import MANIFEST_NAME, lines
from open_miipher.corpus.rows import Row
from open_miipher.corpus.run import Item, Plan, Share
from open_miipher.corpus.shard import Shard
from open_miipher.corpus.threads import map_in_threads
from open_miipher.restoration import Restorer

_LOOK_THREADS = 16
_DONE, _FAILED = "done", "failed"  # before


class Restoration(ABC):
    """A corpus run that restores (a `corpus.run.Task`); what its items are, subclasses say.

    Args:
        restorer: the model and its options.
        output_dir: gets the outputs.
        file_format: of the restored audio.
        **changes: further plain data that tells how outputs are made.

    Attributes:
        identity: the model and all that changes what comes out.
        unit: what the items are, and `failed` what those with an error have, for people.
        is_estimate: whether the items' seconds are taken from their sizes.
    """

    unit, failed = "files", "failed"
    is_estimate = False

    def __init__(
        self, restorer: Restorer, output_dir: Path, file_format: FileFormat, **changes: Any
    ) -> None:
        self._restorer, self._format, self._output_dir = restorer, file_format, output_dir
        self.identity: Mapping[str, Any] = {
            "model": restorer.model.fingerprint,
            **asdict(restorer.options),
            **asdict(file_format),
            **changes,
        }

    @abstractmethod
    def _find(self) -> Sequence[str]:
        """List the inputs that get names."""

    @abstractmethod
    def _assign(self) -> tuple[str, Assign]:
        """Return the outputs' extension, and how those without a name get theirs."""

    @abstractmethod
    def _items(self, names: dict[str, str]) -> dict[str, str]:
        """Return the output of every item, from that of every input."""

    @abstractmethod
    def _stamp(self, item: str) -> Any:
        """Return plain data that is another one when an item changed.

        Raises:
            UserError: there is no such item.
        """

    @abstractmethod
    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        """Look into an item that is left; called in threads.

        Returns:
            The item, or its row if it cannot be restored.

        Raises:
            UserError: the run cannot begin.
        """

    @abstractmethod
    def _num_bytes(self, item: Item) -> float:
        """Estimate an output's size."""

    @abstractmethod
    def process(self, items: Share) -> Iterator[Row]:
        """Restore the items of one rank (see `corpus.run.Task`)."""

    def plan(self, ledger: Ledger) -> Plan:
        """Find what is left, fix the outputs' names, and clear up after killed runs.

        Raises:
            UserError: there is nothing to restore, or the disk has no room for what will come.
        """
        extension, assign = self._assign()
        found = self._find()
        names = ledger.name_all(found, extension, assign)
        items = self._items({item: names[item] for item in found})
        plan = self._look_at_all(items, ledger)
        left = [item.id for item in plan.items] + [row["id"] for row in plan.failed]
        remove_leftovers(self._output_dir / items[item] for item in left)
        remove_leftovers(ledger.samples_path(item) for item in left)
        problem = self._lack_of_room(plan)
        if problem is not None:
            raise UserError(problem)
        return plan

    def preview(self, overwrite: bool, shard: Shard | None = None) -> tuple[str, bool]:
        """Say what a run would do, and write nothing.

        Returns:
            Lines for the user, and whether all would go well.

        Raises:
            UserError: as `plan`, but for the lack of room, which the lines tell.
        """
        ledger = Ledger(self._output_dir, shard)
        if not overwrite:
            ledger.check(self.identity)
        extension, assign = self._assign()
        found = self._find()
        given = ledger.names(extension)
        names = {**given, **assign(found, given, extension)}
        items = self._items({item: names[item] for item in found})
        plan = self._look_at_all(items, ledger, from_nothing=overwrite)
        num_own = plan.num_done + plan.num_failed + len(plan.items) + len(plan.failed)
        label, about = f"{self.unit}:".ljust(12), "about " if self.is_estimate else ""
        said = [
            f"{label} {num_own} ({plan.num_done} done before, {len(plan.items)} to "
            f"restore, {len(plan.failed)} unreadable, {plan.num_failed} failed before)",
            f"hours:       {about}{plan.seconds / 3600:.4f} to restore",
            f"output:      about {self._total_bytes(plan) / 1e6:.1f} MB to come in "
            f"{printable(self._output_dir)}",
        ]
        unreadable = [*(row["error"] for row in plan.failed), *self._unreadable(plan)]
        said += [f"unreadable:  {error}" for error in unreadable]
        problem = self._lack_of_room(plan)
        said += [] if problem is None else [f"error: {problem}"]
        return "\n".join(said), problem is None and not unreadable and not plan.num_failed

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest, sorted as the rows are."""
        listed = (self._listed(line) for line in lines(Ledger(self._output_dir), rows))
        path = self._output_dir / MANIFEST_NAME
        remove_leftovers([path])
        write_lines(path, map(json.dumps, listed))

    def _listed(self, line: Row) -> Row:
        """Return a line of the manifest with what else is to stand there."""
        return line

    def _unreadable(self, plan: Plan) -> list[str]:
        """Return what is wrong inside the items that are left."""
        return []

    def _look_at_all(
        self, items: Mapping[str, str], ledger: Ledger, from_nothing: bool = False
    ) -> Plan:
        """Tell what is done, or cannot be, from what is left, and look into what is left."""
        own = sorted(items) if ledger.shard is None else ledger.shard.own(sorted(items))
        known = ("error", "stamp", "output", "output_bytes")
        rows = {} if from_nothing else ledger.rows(set(own), known)

        def look(item: str) -> Item | Row | str | UserError:
            try:
                stamp = self._stamp(item)
                outcome = self._outcome(rows.get(item), stamp, items[item])
                return outcome or self._look(item, items[item], stamp)
            except UserError as error:
                return error

        looked_at = list(map_in_threads(look, own, _LOOK_THREADS))
        report([str(error) for error in looked_at if isinstance(error, UserError)])
        left = [item for item in looked_at if isinstance(item, Item)]
        return Plan(
            left,
            [row for row in looked_at if isinstance(row, dict)],
            num_done=looked_at.count(_DONE),
            num_failed=looked_at.count(_FAILED),
            num_changed=sum(
                item.id in rows and rows[item.id]["stamp"] != item.details.stamp for item in left
            ),
            num_inputs=len(items),
            unit=self.unit,
            is_estimate=self.is_estimate,
        )

    def _outcome(self, row: Row | None, stamp: Any, name: str) -> str | None:
        """Say whether an item is done or failed before; None if it is to be looked at."""
        if row is None or row["stamp"] != stamp:
            return None
        if row["output"] is not None:
            try:
                status = (self._output_dir / name).stat()
            except OSError:
                return None  # its output is gone
            if not stat.S_ISREG(status.st_mode) or status.st_size != row["output_bytes"]:
                return None
        return _DONE if row["error"] is None else _FAILED

    def _shape(self, info: AudioInfo, num_frames: int) -> tuple[int, int, int]:
        """Return the sample rate, frames and channels that `num_frames` of an input become."""
        options, model = self._restorer.options, self._restorer.model
        sample_rate = options.output_rate(info.sample_rate, model)
        num_frames = num_output_frames(num_frames, info.sample_rate, sample_rate)
        return sample_rate, num_frames, 1 if options.channels == "mono" else info.num_channels

    def _failed_row(self, item: str, stamp: Any, error: str) -> Row:
        return {
            "id": item,
            "stamp": stamp,
            "input": item,
            "output": None,
            "model": self.identity["model"],
            "error": error,
        }

    def _total_bytes(self, plan: Plan) -> float:
        return sum(map(self._num_bytes, plan.items))

    def _lack_of_room(self, plan: Plan) -> str | None:
        existing = next(
            p for p in (self._output_dir, *self._output_dir.resolve().parents) if p.exists()
        )
        free, needed = shutil.disk_usage(existing).free, self._total_bytes(plan)
        if needed <= free:
            return None
        return (
            f"about {needed / 1e6:.0f} MB will be written to {printable(self._output_dir)}, whose "
            f"disk has {free / 1e6:.0f} MB left; make room, or choose another output directory"
        )
