"""How far a corpus run is, over all its ranks and array tasks, from the ledger alone.

Nothing is locked or written, so it may be asked while tasks run, and on a read-only mount.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.rows import Row, read_rows
from open_miipher.corpus.shard import Shard, place
from open_miipher.corpus.speed import Speed, measure
from open_miipher.corpus.tally import Failure, Samples, Tally
from open_miipher.corpus.tenancy import holder

RECENT_SECONDS = 600.0
"""What speed and time to go are taken from."""


@dataclass(frozen=True)
class TaskState:
    """One task: the run over all items, or a shard of an array.

    Attributes:
        name: for people.
        state: running, finished, stopped (there is work left and nobody at it) or not started.
        who: host and process of a running one.
        how: how a stopped one ended.
        num_own: items that belong to it; None if it never came to know them.
        num_left: of them.
        seconds_left: of audio in those.
    """

    name: str
    state: str
    who: str | None = None
    how: str | None = None
    num_own: int | None = None
    num_left: int | None = None
    seconds_left: float = 0.0


@dataclass(frozen=True)
class Survey:
    """Where a restoration stands.

    Attributes:
        num_inputs: items of the corpus, as the newest run found them.
        num_done: of them; num_failed and num_left likewise.
        num_failed: tried, and not to be tried again until they change or are forgotten.
        num_left: to be made.
        seconds_done: audio of those done.
        seconds_left: audio of those left; what unstarted tasks hold is taken from the mean.
        is_estimate: whether some of `seconds_left` is.
        recent: speed in the last minutes; None if nothing runs.
        overall: speed while at least one task was at work; None if none ever was.
        seconds_to_go: for what is running, at the recent speed; None if nothing can be said.
        tasks: all of the newest array, or the one run.
        failures: by reason, the most frequent first.
        unit: what the items are: files, shards, or inputs that are made into shards.
        samples: of shards.
    """

    num_inputs: int
    num_done: int
    num_failed: int
    num_left: int
    seconds_done: float
    seconds_left: float
    is_estimate: bool
    recent: Speed | None
    overall: Speed | None
    seconds_to_go: float | None
    tasks: list[TaskState]
    failures: list[Failure]
    unit: str
    samples: Samples | None


def open_ledger(directory: Path) -> Ledger:
    """Return the ledger of an output directory.

    Raises:
        UserError: there is none.
    """
    ledger = Ledger(directory)
    if not ledger.state():
        raise UserError(
            f"{printable(directory)} is no output directory of src/inference.py: it has no "
            ".ledger/run.json"
        )
    return ledger


def survey(ledger: Ledger, now: float | None = None) -> Survey:
    """Look at everything that the ledger knows.

    Args:
        ledger: of a run over all items, whoever works there.
        now: seconds since the epoch; by default what the clock says.

    Raises:
        UserError: a damaged row.
    """
    now = time.time() if now is None else now
    # Who holds locks is asked first: what he finishes in the meantime is then counted as well.
    holders = {path: holder(path) for path in ledger.folders()}
    logs = {path: list(read_rows(path / "runs.jsonl")) for path in holders}
    tally = Tally(ledger, now - RECENT_SECONDS)
    plans = [event for log in logs.values() for event in log if event["event"] == "planned"]
    newest = max(plans, key=lambda event: event["run"], default=None)
    tasks = _tasks(ledger, newest, logs, holders, tally)
    num_inputs = newest["num_inputs"] if newest else tally.done.files + tally.num_failed
    num_unplanned = _num_unplanned(num_inputs, tasks, tally)
    num_left = num_unplanned + sum(task.num_left or 0 for task in tasks)
    mean = tally.done.seconds / max(1, tally.done.files)
    intervals = [i for path in logs for i in _intervals(logs[path], holders[path], tally, now)]
    is_running = any(who is not None for who in holders.values())
    recent = (now - RECENT_SECONDS, now)
    speed = measure(intervals, tally.recent, recent) if is_running else None
    at_work = sum(task.seconds_left for task in tasks if task.state == "running")
    return Survey(
        num_inputs=num_inputs,
        num_done=max(0, num_inputs - tally.num_failed - num_left),
        num_failed=tally.num_failed,
        num_left=num_left,
        seconds_done=tally.done.seconds,
        seconds_left=sum(task.seconds_left for task in tasks) + num_unplanned * mean,
        is_estimate=num_unplanned > 0 or bool(num_left and newest and newest.get("is_estimate")),
        recent=speed,
        overall=measure(intervals, tally.overall, (0.0, now)),
        seconds_to_go=at_work / speed.real_time if speed and speed.real_time else None,
        tasks=tasks,
        failures=tally.failures(),
        unit=newest.get("unit", "files") if newest else "files",
        samples=tally.samples,
    )


def _tasks(
    ledger: Ledger,
    newest: Row | None,
    logs: dict[Path, list[Row]],
    holders: dict[Path, str | None],
    tally: Tally,
) -> list[TaskState]:
    """Describe all tasks of the array, or the one run, that `newest` is a plan of."""
    count = newest["num_shards"] if newest else None
    again: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for item, run, seconds in tally.forgotten():
        again[0 if count is None else place(item, count)].append((run, seconds))
    tasks = []
    for index in range(count or 1):
        shard = None if count is None else Shard(count, index)
        folder = Ledger(ledger.root.parent, shard).directory
        since = ledger.first_that_counts(shard)
        log = [event for event in logs.get(folder, []) if event["run"] >= since]
        task = _task("the run" if shard is None else str(shard), log, tally, again[index])
        who = holders.get(folder)
        if who is not None:
            task = replace(task, state="running", who=_person(who), how=None)
        tasks.append(task)
    return tasks


def _task(name: str, log: list[Row], tally: Tally, again: list[tuple[int, float]]) -> TaskState:
    """Describe a task at which nobody is."""
    plan = next((event for event in reversed(log) if event["event"] == "planned"), None)
    if plan is None:
        return TaskState(name, "not started")
    made = tally.by_run[plan["run"]]
    later = [seconds for run, seconds in again if run > plan["run"]]
    num_left = max(0, plan["num_items"] - made.files + len(later))
    seconds_left = max(0.0, plan["seconds"] - made.seconds + sum(later)) if num_left else 0.0
    num_own = plan["num_items"] + plan["num_done"] + plan["num_failed"]
    if num_left == 0:
        return TaskState(name, "finished", num_own=num_own, num_left=0)
    ends = [e["how"] for e in log if e["event"] == "ended" and e["run"] == plan["run"]]
    how = "some are to be tried again" if later else ends[-1] if ends else "killed"
    return TaskState(name, "stopped", None, how, num_own, num_left, seconds_left)


def _num_unplanned(num_inputs: int, tasks: list[TaskState], tally: Tally) -> int:
    """Count the items left in tasks that nobody planned."""
    unplanned = {index for index, task in enumerate(tasks) if task.num_own is None}
    if not unplanned:
        return 0
    num_planned = sum(task.num_own or 0 for task in tasks)
    return max(0, num_inputs - num_planned - tally.num_known(unplanned, len(tasks)))


def _intervals(
    log: list[Row], who: str | None, tally: Tally, now: float
) -> Iterator[tuple[float, float]]:
    """Yield when a task's runs were at work: until now, if it is held and has not said its end."""
    ends = {event["run"]: event["time"] for event in log if event["event"] == "ended"}
    begins = [event for event in log if event["event"] == "planned"]
    for event in begins:
        run = event["run"]
        is_on = who is not None and event is begins[-1]
        yield event["time"], ends.get(run, now if is_on else tally.last_time[run])


def _person(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"{owner['host']}, pid {owner['pid']}"
    except (ValueError, KeyError, TypeError):
        return text
