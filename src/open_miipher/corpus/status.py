"""How far a corpus run is, over all its ranks and array tasks, from the ledger alone.

Nothing is locked or written, so it may be asked while tasks run, and on a read-only mount.
"""

import heapq
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row, read_rows
from open_miipher.corpus.array import ArrayTask, place
from open_miipher.corpus.ledger import FORGOTTEN, Ledger
from open_miipher.corpus.outcome import INTERRUPTED, UNABLE, MaxFailures
from open_miipher.distributed import holder

RECENT_SECONDS = 600.0
"""What speed and time to go are taken from."""

FILE = "input_filepath"
"""Key of a row that names the file which its error speaks of, if that is not the item."""

_ENDS = ("SIGTERM", "SIGINT", "SIGUSR2", "finished")  # all others are sentences of what went wrong

Interval = tuple[float, float]
"""Begin and end, seconds since the epoch."""


@dataclass
class Made:
    """Files that were made, or tried, the seconds of audio in them, and when the last one was."""

    files: int = 0
    seconds: float = 0.0
    last_time: float = 0.0

    def add(self, seconds: float, when: float = 0.0) -> None:
        """Count one more."""
        self.files += 1
        self.seconds += seconds
        self.last_time = max(self.last_time, when)


@dataclass(frozen=True)
class Speed:
    """Seconds of audio and files a second, over the seconds in which a task was at work."""

    real_time: float
    files: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Failures for one reason, with one of their sentences."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Samples:
    """Samples of shards: those that were made, and those that failed.

    Attributes:
        num_carried: members of other samples, which have no audio.
    """

    num_made: int
    num_failed: int
    num_carried: int = 0


@dataclass(frozen=True)
class TaskState:
    """One task: the run over all items, or one of an array.

    Attributes:
        state: running, finished, stopped (there is work left and nobody at it) or not started.
        who: host and process of a running one; how: the end of a stopped one.
        num_own: items that belong to it, None if it never came to know them; num_left: of them.
        num_failed: of its items, an array's by where they belong.
        exit_status: what its command ended with, see `outcome`; INTERRUPTED while it is at work, or
            before it was started.
    """

    name: str
    state: str
    who: str | None = None
    how: str | None = None
    num_own: int | None = None
    num_left: int | None = None
    seconds_left: float = 0.0
    num_failed: int = 0
    exit_status: int = INTERRUPTED


@dataclass(frozen=True)
class Survey:
    """Where a run stands.

    Attributes:
        num_inputs: items of the corpus, as the newest run found them.
        num_done: of them; num_failed (not tried again until they change) and num_left likewise.
        seconds_done: audio of those done.
        seconds_left: audio of those left; what unstarted tasks hold is taken from the mean.
        is_estimate: whether some of `seconds_left` is.
        recent: speed in the last minutes; None if nothing runs.
        overall: speed while at least one task was at work; None if none ever was.
        seconds_to_go: for what is running, at the recent speed; None if nothing can be said.
        tasks: all of the newest array, or the one run.
        failures: by reason, the most frequent first.
        unit, called_failed: the newest plan's words.
        samples: of shards.
        exit_status: of all tasks together.
        num_gone: items of earlier runs that the newest one was not asked for.
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
    called_failed: str
    samples: Samples | None
    exit_status: int
    num_gone: int


def open_ledger(directory: Path) -> Ledger:
    """Return the ledger of an output directory; a folder without one is a `UserError`."""
    ledger = Ledger(directory)
    if not ledger.state():
        raise UserError(
            f"{printable(directory)} is no output directory of src/inference.py or "
            "src/preprocess.py: it has no .ledger/run.json"
        )
    return ledger


def survey(ledger: Ledger, now: float | None = None) -> Survey:
    """Look at everything that a ledger knows; `now` is in seconds since the epoch."""
    now = time.time() if now is None else now
    # Who holds locks is asked first: what he finishes in the meantime is then counted as well.
    holders = {path: holder(path) for path in ledger.folders()}
    logs = {path: list(read_rows(path / "runs.jsonl")) for path in holders}
    tally = _Tally(ledger, now - RECENT_SECONDS)
    plans = [event for log in logs.values() for event in log if event["event"] == "planned"]
    newest = max(plans, key=lambda event: event["run"], default={})
    tasks = _tasks(ledger, newest.get("num_shards"), logs, holders, tally)
    num_inputs = newest.get("num_inputs", tally.done.files + tally.num_failed)
    num_unplanned = _num_unplanned(num_inputs, tasks, tally)
    num_left = num_unplanned + sum(task.num_left or 0 for task in tasks)
    mean = tally.done.seconds / max(1, tally.done.files)
    intervals = [i for path in logs for i in _intervals(logs[path], holders[path], tally, now)]
    is_running = any(who is not None for who in holders.values())
    recent = (now - RECENT_SECONDS, now)
    speed = measure(intervals, tally.recent, recent) if is_running else None
    ends = [task.exit_status for task in tasks if task.num_left or task.num_own is None]
    allowed = MaxFailures(newest.get("max_failures", "0"))  # older ledgers have none
    at_work = sum(task.seconds_left for task in tasks if task.state == "running")
    return Survey(
        num_inputs=num_inputs,
        num_done=max(0, num_inputs - tally.num_failed - num_left),
        num_failed=tally.num_failed,
        num_left=num_left,
        seconds_done=tally.done.seconds,
        seconds_left=sum(task.seconds_left for task in tasks) + num_unplanned * mean,
        is_estimate=num_unplanned > 0 or bool(num_left and newest.get("is_estimate")),
        recent=speed,
        overall=measure(intervals, tally.overall, (0.0, now)),
        seconds_to_go=at_work / speed.real_time if speed and speed.real_time else None,
        tasks=tasks,
        failures=_failures(ledger, tally),
        unit=newest.get("unit", "files"),
        called_failed=newest.get("called_failed", "failed"),  # older ledgers have no word
        samples=tally.samples,
        exit_status=min(ends) if num_left else allowed.status(tally.num_failed, num_inputs),
        num_gone=len(tally.gone),
    )


def measure(intervals: Iterable[Interval], made: Made, window: Interval) -> Speed | None:
    """Measure what was made in a window against the time somebody worked in it.

    The intervals in which tasks were at work may overlap; None if nobody worked.
    """
    seconds, reached = 0.0, window[0]
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, window[1])
        if end > begin:
            seconds += end - begin
            reached = end
    return Speed(made.seconds / seconds, made.files / seconds, seconds) if seconds > 0 else None


class _Newest(NamedTuple):
    """What the newest row of an item says; `file` is what its error speaks of."""

    run: int
    seconds: float
    error: str | None
    is_forgotten: bool
    file: str
    samples: Samples | None


class _Tally:
    """What the rows of a ledger add up to, read once.

    Attributes:
        newest: by item, of those that are asked for.
        gone: the others.
        by_run: what each run made.
        recent: what was made since a time, in seconds since the epoch; overall: what ever was.
        done: what is done now; num_failed: items that failed, also in part, and count.
        samples: what the items hold, if they are shards.
    """

    def __init__(self, ledger: Ledger, recent_since: float) -> None:
        self.by_run: dict[int, Made] = defaultdict(Made)
        self.recent, self.overall, self.done = Made(), Made(), Made()
        self.newest: dict[str, _Newest] = {}
        for row in ledger.all_rows():
            self._count(row, recent_since)
        self.gone = ledger.gone()
        for item in self.gone:
            self.newest.pop(item, None)
        self.num_failed = sum(newest.error is not None for _, newest in self.known())
        for _, newest in self.known():
            if newest.error is None:
                self.done.add(newest.seconds)
            elif newest.samples is not None:
                self.done.seconds += newest.seconds
        packed = [newest.samples for _, newest in self.known() if newest.samples]
        counts = [(s.num_made, s.num_failed, s.num_carried) for s in packed]
        self.samples = Samples(*map(sum, zip(*counts, strict=True))) if packed else None

    def known(self) -> Iterator[tuple[str, _Newest]]:
        """Yield the items that are not forgotten."""
        return (entry for entry in self.newest.items() if not entry[1].is_forgotten)

    def _count(self, row: Row, recent_since: float) -> None:
        # None: it could not be read.
        run, item, seconds = row["run"], row["id"], row.get("seconds") or 0.0
        if item not in self.newest or run >= self.newest[item].run:
            packed = None
            if "num_samples" in row:
                num_carried = row.get("num_carried", 0)  # older rows have none
                packed = Samples(row["num_samples"], row["num_failed"], num_carried)
            error, file = row.get("error"), str(row.get(FILE, item))
            self.newest[item] = _Newest(run, seconds, error, FORGOTTEN in row, file, packed)
        if FORGOTTEN in row:
            return
        when = row.get("time", 0.0)
        self.by_run[run].add(seconds, when)
        self.overall.add(seconds, when)
        if when >= recent_since:
            self.recent.add(seconds, when)


def failures(ledger: Ledger) -> Iterator[dict[str, str]]:
    """Yield what failed, `input` and `error`, sorted by items; of shards every sample."""
    for row in ledger.sorted_rows():
        if row["error"] is not None:
            own = str(row.get(FILE, row["id"])), row["error"]
            found = _failed_samples(ledger, row["id"]) if "num_samples" in row else [own]
            yield from ({"input": file, "error": error} for file, error in found)


def least_trusted(ledger: Ledger, count: int) -> list[Row]:
    """Return what was restored with the lowest trust, the lowest first; of shards the samples.

    Args:
        ledger: of a restoration.
        count: how many at most.

    Raises:
        UserError: no trust was measured in this run.
    """
    rows = ledger.listed(ledger.sorted_rows())
    found = heapq.nsmallest(
        count, (row for row in rows if "trust" in row), key=lambda row: row["trust"]
    )
    if not found:
        raise UserError(
            f"{printable(ledger.root.parent)} has no file whose trust was measured: restore with "
            "--trust (docs/trust.md)"
        )
    return found


def _failed_samples(ledger: Ledger, item: str) -> list[tuple[str, str]]:
    rows = (row for row in ledger.samples(item) if row["error"] is not None)
    return [(str(row.get(FILE, row["input"])), row["error"]) for row in rows]


def _failures(ledger: Ledger, tally: _Tally) -> list[Failure]:
    """Group the failures, of shards those of their samples; the most frequent reason first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for item, newest in tally.known():
        if newest.error is None:
            continue
        own = newest.file, newest.error
        for file, error in _failed_samples(ledger, item) if newest.samples else [own]:
            _, named, rest = error.partition(printable(file))
            # the sentence without the file's name, and with N for every number, but of MP4
            reason = re.sub(r"(?<![A-Za-z])\d+", "N", rest.lstrip(": ") if named else error)
            counts[reason] += 1
            examples.setdefault(reason, error)
    return [Failure(r, count, examples[r]) for r, count in counts.most_common()]


def _tasks(
    ledger: Ledger,
    count: int | None,
    logs: dict[Path, list[Row]],
    holders: dict[Path, str | None],
    tally: _Tally,
) -> list[TaskState]:
    """Describe the `count` tasks of the newest array, or the one run."""
    again: dict[int, list[_Newest]] = defaultdict(list)
    failed: Counter[int] = Counter()
    for item, newest in tally.newest.items():
        if newest.is_forgotten or newest.error is not None:
            index = 0 if count is None else place(item, count)
            if newest.is_forgotten:
                again[index].append(newest)
            else:
                failed[index] += 1
    tasks = []
    for index in range(count or 1):
        task = None if count is None else ArrayTask(count, index)
        folder = Ledger(ledger.root.parent, task).directory
        name = "the run" if task is None else str(task)
        log, holder = logs.get(folder, []), holders.get(folder)
        tasks.append(_task(name, log, holder, tally, again[index], failed[index]))
    return tasks


def _task(
    name: str,
    log: list[Row],
    holder: str | None,
    tally: _Tally,
    again: list[_Newest],
    num_failed: int,
) -> TaskState:
    """Describe a task, of whose items some are to be made again, and some failed."""
    who = None if holder is None else _person(holder)
    plan = next((event for event in reversed(log) if event["event"] == "planned"), None)
    if plan is None:
        return TaskState(name, "not started" if who is None else "running", who)
    made = tally.by_run[plan["run"]]
    later = [newest.seconds for newest in again if newest.run > plan["run"]]
    num_own = plan["num_items"] + plan["num_done"] + plan["num_failed"]
    num_left = min(num_own, max(0, plan["num_items"] - made.files + len(later)))
    seconds_left = max(0.0, plan["seconds"] - made.seconds + sum(later)) if num_left else 0.0
    state = "running" if who is not None else "stopped" if num_left else "finished"
    how, status = None, INTERRUPTED
    if state == "stopped":
        ends = [e["how"] for e in log if e["event"] == "ended" and e["run"] == plan["run"]]
        how = "some are to be tried again" if later else ends[-1] if ends else "killed"
        is_early = later or not ends or how in _ENDS
        status = INTERRUPTED if is_early else UNABLE
    elif state == "finished":
        status = MaxFailures(plan.get("max_failures", "0")).status(num_failed, num_own)
    return TaskState(name, state, who, how, num_own, num_left, seconds_left, num_failed, status)


def _num_unplanned(num_inputs: int, tasks: list[TaskState], tally: _Tally) -> int:
    """Count the items left in tasks that nobody planned."""
    unplanned = {index for index, task in enumerate(tasks) if task.num_own is None}
    if not unplanned:
        return 0
    num_known = sum(place(item, len(tasks)) in unplanned for item, _ in tally.known())
    return max(0, num_inputs - sum(task.num_own or 0 for task in tasks) - num_known)


def _intervals(log: list[Row], who: str | None, tally: _Tally, now: float) -> Iterator[Interval]:
    """Yield when a task's runs were at work: until now, if it is held and has not said its end."""
    ends = {event["run"]: event["time"] for event in log if event["event"] == "ended"}
    begins = [event for event in log if event["event"] == "planned"]
    for event in begins:
        run = event["run"]
        is_on = who is not None and event is begins[-1]
        yield event["time"], ends.get(run, now if is_on else tally.by_run[run].last_time)


def _person(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"{owner['host']}, pid {owner['pid']}"
    except (ValueError, KeyError, TypeError):
        return text
