"""The resumable map: the same work for every item of a corpus, on any number of ranks.

Killed at any instant and started again, with other ranks too, it goes on with what is left: an item
is done when its row is in the ledger and its output is there. The tasks of a job array do the same
with a part of the items each.
"""

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from open_miipher.base.errors import UserError
from open_miipher.base.rows import Row
from open_miipher.corpus.array import ArrayTask, OptionNames
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.outcome import NO_FAILURES, MaxFailures, Summary
from open_miipher.corpus.progress import Progress
from open_miipher.distributed import Share, StopSignal, World, mark_requeue, share_out


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of work.

    Attributes:
        id: stable: a path in the input tree, with forward slashes, or an absolute one.
        output: path in the output tree.
        cost: its share of the work: the seconds of audio that it holds, or about so many.
        stamp: plain data that is another one when the input changed.
        details: whatever the task needs to know of it (picklable).
    """

    id: str
    output: str
    cost: float
    stamp: Any
    details: Any


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        items: those left.
        failed: rows of the inputs that cannot even be started.
        unit: what the items are, for people.
        called_failed: what those of them are, for people, whose row has an error.
        num_done: items that were done before.
        num_failed: items that failed before and have not changed: they are not tried again.
        num_changed: items among those left whose input is another one now.
        num_inputs: items of the whole corpus, those of other tasks of an array included.
        num_gone: items of earlier runs that are not asked for any more.
        is_estimate: whether the items' costs are taken from their sizes.
    """

    items: list[Item]
    failed: list[Row]
    unit: str
    called_failed: str
    num_done: int = 0
    num_failed: int = 0
    num_changed: int = 0
    num_inputs: int = 0
    num_gone: int = 0
    is_estimate: bool = False

    @property
    def cost(self) -> float:
        """That of all items."""
        return math.fsum(item.cost for item in self.items)


class Task(Protocol):
    """One use of the map.

    Attributes:
        identity: plain data that tells how outputs are made; another one is another corpus.
        option_names: what messages call the program's options.
    """

    option_names: OptionNames

    @property
    def identity(self) -> Mapping[str, Any]:
        """See above; asked on rank 0 alone."""

    def plan(self, ledger: Ledger) -> Plan:
        """Find the work that is left for the ledger's task; called on rank 0 alone."""

    def process(self, items: Share[Item]) -> Iterator[Row]:
        """Do the work of one rank.

        Args:
            items: this rank's; they end early when a signal came.

        Yields:
            One row an item, in any order: `id`, `error` (None or the reason) and more. The output
            is complete on the disk before its row is given.

        Raises:
            UserError: no further item can be done.
        """

    def finish(self, rows: Iterable[Row]) -> None:
        """Sum up, on rank 0 of the last task at work, from the newest row of every item, by id."""


def run(
    task: Task,
    output_dir: Path,
    world: World,
    overwrite: bool = False,
    array_task: ArrayTask | None = None,
    stop: StopSignal | None = None,
    allowed: MaxFailures = NO_FAILURES,
) -> Summary:
    """Map a task over what is left of its items.

    Args:
        task: what to do.
        output_dir: owned by this run until it ends, or by all tasks of one array together.
        world: the ranks, which share the items out by cost.
        overwrite: do everything again, whatever it was made by.
        array_task: do the items of this task only.
        stop: that the caller has listened to since before the task was there; else a new one.
        allowed: failures that are none for the exit status.

    Returns:
        The same summary on every rank, once all have finished.

    Raises:
        UserError: on every rank, if one of them could not go on; also from `Task.plan`, or if the
            directory is in use or holds outputs that were made otherwise.
    """
    ledger = Ledger(output_dir, array_task, task.option_names)
    with closing(ledger.tenancy):  # also after an error, so that the caller may start again
        return _run(task, ledger, world, overwrite, stop or StopSignal(), allowed)


def _run(
    task: Task,
    ledger: Ledger,
    world: World,
    overwrite: bool,
    stop: StopSignal,
    allowed: MaxFailures,
) -> Summary:
    plan = Plan([], [], "", "")  # only rank 0 has the items

    def prepare() -> tuple[int, Plan, int]:
        nonlocal plan
        ledger.claim(task.identity, overwrite)
        mark_requeue(ledger.directory, False)
        try:
            plan = task.plan(ledger)
        except UserError:
            ledger.withdraw()
            raise
        _log_plan(ledger, plan, allowed)
        num_items = len(plan.items) + len(plan.failed)
        return ledger.number, replace(plan, items=[], failed=[]), num_items

    ledger.number, words, num_items = world.on_main(prepare)
    share = share_out(plan.items, world, stop)
    own = _work(task, share, plan.failed, words.unit, ledger, world)
    # A rank that was stopped waits here as well: the others come once their own work is done.
    try:
        results = world.gather((*own, stop.received))
    except RuntimeError as error:  # torch's way to say that a peer is gone
        raise UserError(
            "another rank ended before its work was done; the same command goes on"
        ) from error
    problems, counts, signals = zip(*results, strict=True)
    total = sum(counts, Counter[str]())
    problem = next((p for p in problems if p is not None), None)
    is_left = total["done"] + total["failed"] < num_items
    signal = next((s for s in signals if s is not None), None) if is_left else None
    try:
        world.on_main(lambda: _end(task, ledger, problem, signal))
    except UserError:
        if problem is None:  # else the disk is full, say, and the first sentence tells it
            raise
    if problem is not None:
        raise UserError(
            f"{problem.rstrip('.')}; what is done is kept, the same command goes on", shared=True
        )
    return Summary(
        num_done=total["done"],
        num_failed=words.num_failed + total["failed"],
        stopped=signal,
        unit=words.unit,
        called_failed=words.called_failed,
        num_done_before=words.num_done,
        num_failed_before=words.num_failed,
        allowed=allowed,
        num_clipped=total["clipped"],
        num_carried=total["carried"],
        num_kept=total["kept"],
    )


def _log_plan(ledger: Ledger, plan: Plan, allowed: MaxFailures) -> None:
    told = ("num_inputs", "unit", "called_failed", "is_estimate", "num_done", "num_failed")
    ledger.log(
        "planned",
        num_shards=None if ledger.array_task is None else ledger.array_task.count,
        num_items=len(plan.items) + len(plan.failed),
        seconds=round(plan.cost, 3),
        max_failures=allowed.text,
        **{name: getattr(plan, name) for name in told},
    )
    gone = f", {plan.num_gone} not asked for any more" if plan.num_gone else ""
    print(
        f"{len(plan.items)} to do, {plan.num_done} done before, {plan.num_changed} changed since, "
        f"{len(plan.failed)} unreadable, {plan.num_failed} failed before{gone}",
        flush=True,
    )


def _work(
    task: Task, share: Share[Item], failed: list[Row], unit: str, ledger: Ledger, world: World
) -> tuple[str | None, Counter[str]]:
    """Do a rank's work.

    Returns:
        Why it could not go on; how many items are done, failed, clipped, kept, and carried along.
    """
    whose = f"process 1 of {world.size}" if world.size > 1 else ""
    num_items, counts = len(failed) + share.num_items, Counter[str]()
    try:
        with (
            ledger.writer(world.rank) as writer,
            Progress(
                num_items, share.cost, world.is_main, whose, unit, lambda: share.under_way()
            ) as progress,
        ):
            for row in itertools.chain(failed, task.process(share)):
                if row["error"] is not None:
                    progress.say(f"failed: {row['error']}")
                writer.write([{"run": ledger.number, "time": round(time.time(), 3), **row}])
                counts["done" if row["error"] is None else "failed"] += 1
                counts["clipped"] += row.get("clipped_samples", 0) > 0
                counts["carried"] += row.get("num_carried", 0)
                counts["kept"] += row.get("num_kept", row.get("kept_input", False))
                progress.advance(share.end(row["id"]))
    except UserError as error:
        return str(error), counts
    return None, counts


def _end(task: Task, ledger: Ledger, problem: str | None, signal: str | None) -> None:
    """Say how the run ended; the last task at work sums up."""
    ledger.log("ended", how=problem or signal or "finished")
    if problem is None and signal is not None:
        mark_requeue(ledger.directory, True)
    with ledger.tenancy.alone_at_the_end() as alone:
        if alone:
            task.finish(ledger.sorted_rows())
