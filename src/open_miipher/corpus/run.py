"""The resumable map: the same work for every item of a corpus, on any number of ranks.

Killed at any instant and started again, with other ranks too, it goes on with what is left: an item
is done when its row is in the ledger and its output is there. The tasks of a job array do the same
with an item's shard each.
"""

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from open_miipher.base.errors import UserError
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.progress import Progress
from open_miipher.corpus.rows import Row
from open_miipher.corpus.shard import Shard
from open_miipher.distributed import StopSignal, World, mark_requeue

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One piece of work.

    Attributes:
        id: path in the input tree, with forward slashes.
        output: path in the output tree.
        seconds: audio that it holds: its share of the work.
        details: whatever the task needs to know of it (picklable).
    """

    id: str
    output: str
    seconds: float
    details: Any


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        items: those left.
        failed: rows of the inputs that cannot even be started.
        num_done: items that were done before.
        num_failed: items that failed before and have not changed: they are not tried again.
        num_changed: items among those left whose input is another one now.
        num_inputs: items of the whole corpus, those of other tasks of an array included.
        unit: what the items are, for people.
        is_estimate: whether the items' seconds are taken from their sizes.
    """

    items: list[Item]
    failed: list[Row]
    num_done: int
    num_failed: int = 0
    num_changed: int = 0
    num_inputs: int = 0
    unit: str = "files"
    is_estimate: bool = False

    @property
    def seconds(self) -> float:
        """Audio that the items hold."""
        return math.fsum(item.seconds for item in self.items)


class Task(Protocol):
    """One use of the map.

    Attributes:
        identity: plain data that tells how outputs are made; another one is another corpus.
    """

    identity: Mapping[str, Any]

    def plan(self, ledger: Ledger) -> Plan:
        """Find the work that is left for the ledger's task; called on rank 0 alone."""

    def process(self, items: "Share") -> Iterator[Row]:
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


class Share(Iterator[Item]):
    """The items of one rank, until a signal asks it to stop.

    Args:
        items: in the order of work.
        stop: the signal.
    """

    def __init__(self, items: Sequence[Item], stop: StopSignal) -> None:
        self._items, self._stop = iter(items), stop

    @property
    def stopped(self) -> bool:
        """Whether no more items come; those under way may be given up: they are done again."""
        return self._stop.received is not None

    def __next__(self) -> Item:
        if self.stopped:
            raise StopIteration
        return next(self._items)


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        num_done: items done in this run, all ranks.
        num_failed: items with an error, also from earlier runs.
        stopped: the signal that ended it before all was done, if one did.
    """

    num_done: int
    num_failed: int
    stopped: str | None

    @property
    def exit_code(self) -> int:
        """0 if every item is done."""
        return int(self.num_failed > 0 or self.stopped is not None)


def run(
    task: Task,
    output_dir: Path,
    world: World,
    overwrite: bool = False,
    shard: Shard | None = None,
    stop: StopSignal | None = None,
) -> Summary:
    """Map a task over what is left of its items.

    Args:
        task: what to do.
        output_dir: owned by this run until it ends, or by all shards of one array together.
        world: the ranks, which share the items out by duration.
        overwrite: do everything again, whatever it was made by.
        shard: do the items of this shard only.
        stop: that the caller has listened to since before the task was there; else a new one.

    Returns:
        The same summary on every rank, once all have finished.

    Raises:
        UserError: on every rank, if one of them could not go on; also from `Task.plan`, or if the
            directory is in use or holds outputs that were made otherwise.
    """
    ledger = Ledger(output_dir, shard)
    stop = stop or StopSignal()

    def prepare() -> tuple[int, Plan, list[list[Item]]]:
        number = ledger.claim(task.identity, overwrite)
        mark_requeue(ledger.directory, False)
        plan = task.plan(ledger)
        _log_plan(ledger, plan)
        return number, plan, split_by_duration(plan.items, world.size)

    number, plan, shares = on_main(world, prepare)
    problem, num_done, num_failed = None, 0, 0
    try:
        with ledger.writer(world.rank) as writer:
            for row in _rows(task, plan, shares[world.rank], world, stop):
                writer.write([{"run": number, "time": round(time.time(), 3), **row}])
                num_done += row["error"] is None
                num_failed += row["error"] is not None
    except UserError as error:
        problem = str(error)
    except OSError as error:
        problem = f"the ledger in {ledger.directory} cannot be written: {error.strerror}"
    # A rank that was stopped waits here as well: the others come once their own work is done.
    results = _all_ranks(world, (problem, num_done, num_failed, stop.received))
    problems, done, failed, signals = zip(*results, strict=True)
    first = next((p for p in problems if p is not None), None)
    is_left = sum(done) + sum(failed) < len(plan.items) + len(plan.failed)
    signal = next((s for s in signals if s is not None), None) if is_left else None
    try:
        on_main(world, lambda: _end(task, ledger, first, signal))
    except UserError:
        if first is None:  # else the disk is full, say, and the first sentence tells it
            raise
    if first is not None:
        raise UserError(
            f"{first.rstrip('.')}; what is done is kept, the same command goes on", shared=True
        )
    return Summary(sum(done), plan.num_failed + sum(failed), signal)


def _log_plan(ledger: Ledger, plan: Plan) -> None:
    ledger.log(
        "planned",
        num_shards=None if ledger.shard is None else ledger.shard.count,
        num_inputs=plan.num_inputs,
        unit=plan.unit,
        is_estimate=plan.is_estimate,
        num_items=len(plan.items) + len(plan.failed),
        seconds=round(plan.seconds, 3),
        num_done=plan.num_done,
        num_failed=plan.num_failed,
    )
    print(
        f"{len(plan.items)} to do, {plan.num_done} done before, {plan.num_changed} changed since, "
        f"{len(plan.failed)} unreadable, {plan.num_failed} failed before",
        flush=True,
    )


def _end(task: Task, ledger: Ledger, problem: str | None, signal: str | None) -> None:
    """Say how the run ended; the last task at work sums up."""
    ledger.log("ended", how=problem or signal or "finished")
    if problem is None and signal is not None:
        mark_requeue(ledger.directory, True)
    with ledger.alone_at_the_end() as alone:
        if alone:
            task.finish(ledger.sorted_rows())


def on_main(world: World, action: Callable[[], T]) -> T:
    """Return on every rank what rank 0 finds; its `UserError` is raised on every rank."""
    found: tuple[T | None, str | None] = (None, None)
    if world.is_main:
        try:
            found = (action(), None)
        except UserError as error:
            found = (None, str(error))
        except OSError as error:
            found = (None, f"{error.filename or 'the output directory'}: {error.strerror}")
    result, problem = world.broadcast(found)
    if problem is not None:
        raise UserError(problem, shared=True)
    return result


def split_by_duration(items: Sequence[Item], num_ranks: int) -> list[list[Item]]:
    """Share items out so that every rank gets about as much audio; the longest come first.

    Greedy: the next longest item goes to the rank with the least.
    """
    shares: list[list[Item]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    for item in sorted(items, key=lambda item: (-item.seconds, item.id)):
        load, rank = loads[0]
        shares[rank].append(item)
        heapq.heapreplace(loads, (load + item.seconds, rank))
    return shares


def _rows(
    task: Task, plan: Plan, share: list[Item], world: World, stop: StopSignal
) -> Iterator[Row]:
    seconds = {item.id: item.seconds for item in share}
    failed = plan.failed if world.is_main else []
    num_items = len(failed) + len(share)
    whose = f"process 1 of {world.size}" if world.size > 1 else ""
    total = sum(seconds.values())
    with Progress(num_items, total, world.is_main, whose, plan.unit) as progress:
        for row in itertools.chain(failed, task.process(Share(share, stop))):
            if row["error"] is not None:
                progress.say(f"failed: {row['error']}")
            yield row
            progress.advance(seconds.get(row["id"], 0.0))


def _all_ranks(world: World, result: tuple[str | None, int, int, str | None]) -> list[Any]:
    try:
        return world.gather(result)
    except RuntimeError as error:  # torch's way to say that a peer is gone
        raise UserError(
            "another rank ended before its work was done; the same command goes on"
        ) from error
