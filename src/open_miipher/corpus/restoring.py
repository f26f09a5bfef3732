"""The corpus run that restores: recordings into files, or into the samples of tar shards."""

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.io import AudioError
from open_miipher.base.amounts import duration, size
from open_miipher.base.atomic import remove_leftovers, write_lines
from open_miipher.base.errors import UserError, notice
from open_miipher.base.memory import keep_freed_memory
from open_miipher.base.paths import existing_parent, printable
from open_miipher.base.rows import Row
from open_miipher.corpus.array import OF_RESTORING, ArrayTask
from open_miipher.corpus.feeding import Workers
from open_miipher.corpus.inputs import Inputs, find_left, renamed
from open_miipher.corpus.ledger import MANIFEST_NAME, Ledger
from open_miipher.corpus.line import Line
from open_miipher.corpus.outcome import NO_FAILURES, UNABLE, MaxFailures
from open_miipher.corpus.recordings import Segment
from open_miipher.corpus.run import Item, Plan
from open_miipher.corpus.writers import Setting, restore_items
from open_miipher.distributed import Share
from open_miipher.restoration import Restorer


@dataclass(frozen=True)
class _Worker:
    """Builds what a worker does (picklable)."""

    inputs: Inputs
    setting: Setting

    def __call__(self) -> Callable[[int], None]:
        return self.restore

    def restore(self, num_bytes: int) -> None:
        """Restore what comes over the line."""
        keep_freed_memory()  # of arrays of some MiB each, all of which come again
        line = Line(num_bytes)
        self.setting.restorer.model.line = line  # type: ignore[attr-defined]
        for row in restore_items(line, self.inputs, self.setting, line.restore_jobs):
            line.finished(row)
        line.close()


class Restore:
    """Restores every item of its inputs into a file or a tar shard (a `corpus.run.Task`).

    The signals of items follow each other through the restorer at once, so that batches are full.

    Args:
        restorer: the model and its options.
        inputs: what is restored; checked.
        output_dir: gets the inputs' folders and names.
        file_format: of the restored audio.
        outputs_elsewhere: outputs that were moved away are not made again.
        workers: processes that do all but what the model does; None: all is done in this one.

    Attributes:
        identity: the model and all that changes what comes out.
        option_names: of the command line.
    """

    option_names = OF_RESTORING

    def __init__(
        self,
        restorer: Restorer,
        inputs: Inputs,
        output_dir: Path,
        file_format: FileFormat,
        outputs_elsewhere: bool = False,
        workers: Workers | None = None,
    ) -> None:
        restorer.decide_on_trust()
        self._workers = workers
        self._inputs, self._output_dir = inputs, output_dir
        self._unlisted = copy.deepcopy(inputs)  # a manifest of millions is not for every worker
        self._outputs_elsewhere = outputs_elsewhere
        self._setting = Setting(restorer, output_dir, file_format)
        self._extension = "tar" if inputs.are_packed else file_format.format
        self.identity: Mapping[str, Any] = {
            "model": restorer.model.fingerprint,
            **restorer.options.identity,
            **asdict(file_format),
            **inputs.identity,
        }

    def plan(self, ledger: Ledger) -> Plan:
        """Find what is left, fix the outputs' names, and clear up after killed runs.

        Raises:
            UserError: there is nothing to restore, or the disk has no room for what will come.
        """
        found = self._inputs.ids()
        self._check_names(ledger, found)
        if self._inputs.root is not None:
            ledger.add_root(self._inputs.root)
        names = ledger.name_all(found, self._extension, self._inputs.assign)
        ever = self._inputs.items(names).keys()
        items = self._inputs.items({item: names[item] for item in found})
        gone = ever - items.keys()
        ledger.record_gone(gone)
        plan = self._find_left(items, ledger)
        left = [item.id for item in plan.items] + [row["id"] for row in plan.failed]
        remove_leftovers(self._output_dir / items[item] for item in left)
        remove_leftovers(ledger.samples_path(item) for item in left)
        problem = self._lack_of_room(plan)
        if problem is not None:
            raise UserError(problem)
        if mixed := self._mixed(plan):
            notice(mixed)
        return replace(plan, num_gone=len(gone))

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Restore the items of one rank; a signal lets files come to their end, and no shards."""
        if self._workers is None or not self._workers.are_worth(items.cost):
            restore_jobs = self._setting.restorer.restore_jobs
            return restore_items(items, self._inputs, self._setting, restore_jobs)
        build = _Worker(self._unlisted, self._setting.distant())
        restorer = self._setting.restorer
        return self._workers.restore(build, items, restorer, self._lost, self._clear_up)

    def _lost(self, item: Item, problem: str) -> Row:
        row = self._setting.failed_row(item.id, item.stamp, f"{printable(item.id)}: {problem}")
        return {**row, **self._inputs.origin(item.id), "seconds": round(item.cost, 6)}

    def _clear_up(self, item: Item) -> None:
        samples = Ledger(self._output_dir).samples_path(item.id)
        remove_leftovers([self._output_dir / item.output, samples])

    def preview(
        self,
        overwrite: bool,
        array_task: ArrayTask | None = None,
        allowed: MaxFailures = NO_FAILURES,
    ) -> tuple[str, int]:
        """Say what a run would do, and write nothing.

        Returns:
            Lines for the user, and the exit status that the run would have, as far as can be told.

        Raises:
            UserError: as `plan`, but for the lack of room, which the lines tell.
        """
        ledger = Ledger(self._output_dir, array_task)
        if not overwrite:
            ledger.check(self.identity)
        found = self._inputs.ids()
        if not overwrite:
            self._check_names(ledger, found)
        given = ledger.names(self._extension)
        names = {**given, **self._inputs.assign(found, given, self._extension)}
        items = self._inputs.items({item: names[item] for item in found})
        plan = self._find_left(items, ledger, from_nothing=overwrite)
        num_own = plan.num_done + plan.num_failed + len(plan.items) + len(plan.failed)
        about = "about " if plan.is_estimate else ""
        said = [
            f"{plan.unit + ':':<12} {num_own} ({plan.num_done} done before, {len(plan.items)} to "
            f"restore, {len(plan.failed)} unreadable, {plan.num_failed} failed before)",
            f"audio:       {about}{duration(plan.cost)} to restore",
            f"output:      about {size(self._total_bytes(plan))} to come in "
            f"{printable(self._output_dir)}",
        ]
        unreadable = [row["error"] for row in plan.failed]
        for group in (i.details for i in plan.items if isinstance(i.details, list)):
            unreadable += [problem for *_, problem in group if problem is not None]
        said += [f"unreadable:  {error}" for error in unreadable]
        if mixed := self._mixed(plan):
            said.append(f"channels:    {mixed}")
        problem = self._lack_of_room(plan)
        said += [] if problem is None else [f"error: {problem}"]
        num_failed = plan.num_failed + len(unreadable)
        status = allowed.status(num_failed, num_own) if problem is None else UNABLE
        return "\n".join(said), status

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest, sorted as the rows are."""
        ledger = Ledger(self._output_dir)
        listed = ({**self._inputs.about(row["input"]), **row} for row in ledger.listed(rows))
        path = self._output_dir / MANIFEST_NAME
        remove_leftovers([path])
        write_lines(path, map(json.dumps, listed))

    def _find_left(
        self, items: Mapping[str, str], ledger: Ledger, from_nothing: bool = False
    ) -> Plan:
        elsewhere = self._outputs_elsewhere
        return find_left(self._inputs, items, ledger, self._look, from_nothing, elsewhere)

    def _check_names(self, ledger: Ledger, found: list[str]) -> None:
        """Refuse to make again, under other names, what was restored before.

        Raises:
            UserError: ids of now begin below another folder than those of before.
        """
        root = self._inputs.root
        for old_root in ledger.roots():
            if root is None or old_root == root:
                continue
            pairs = renamed(old_root, root, ledger.names(self._extension), found)
            if pairs:
                old, new = pairs[0]
                raise UserError(
                    f"{len(pairs)} of {len(found)} inputs were restored into "
                    f"{printable(self._output_dir)} before, under other names ({printable(old)}, "
                    f"which would be {printable(new)} now): names began below {printable(old_root)}"
                    f", the folder that held all inputs, and would now begin below "
                    f"{printable(root)}; give the inputs as they were given before, choose another "
                    "output directory for the others, or make all again with --overwrite"
                )

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        """Look into an item that is left; what cannot be restored is its row."""
        try:
            found = self._inputs.look(item, output, stamp)
            source = found.details.source() if isinstance(found.details, Segment) else None
            refusal = self._setting.refusal(output, source)
            if refusal is None:
                return found
            problem = f"{printable(item)}: {refusal}"
        except AudioError as error:
            problem = str(error)
        row = self._setting.failed_row(item, stamp, problem)
        return {**row, **self._inputs.origin(item)}

    def _total_bytes(self, plan: Plan) -> float:
        restorer = self._setting.restorer
        rate = restorer.options.output_rate(restorer.model.input_rate, restorer.model)
        return sum(
            self._setting.num_bytes(item.details.source())
            if isinstance(item.details, Segment)
            else self._setting.file_format.num_bytes(round(item.cost * rate), 1)
            for item in plan.items
        )

    def _mixed(self, plan: Plan) -> str:
        """Say of how many files the channels will be mixed, as far as that is known."""
        if self._setting.restorer.options.channels == "each":
            return ""
        several = 0
        for details in (item.details for item in plan.items):
            parts = [part for _, _, part, _ in details] if isinstance(details, list) else [details]
            infos = (part.info for part in parts if isinstance(part, Segment))
            several += sum(info is not None and info.num_channels > 1 for info in infos)
        if not several:
            return ""
        inputs = (
            "1 input with several channels is"
            if several == 1
            else (f"{several:,} inputs with several channels are")
        )
        return (
            f"{inputs} mixed to one (`mix` in {MANIFEST_NAME} says how); --channels each restores "
            "each"
        )

    def _lack_of_room(self, plan: Plan) -> str | None:
        free = shutil.disk_usage(existing_parent(self._output_dir)).free
        needed = self._total_bytes(plan)
        if needed <= free:
            return None
        return (
            f"about {size(needed)} will be written to {printable(self._output_dir)}, whose disk "
            f"has {size(free)} left; make room, or choose another output directory"
        )
