"""What the rows of a ledger add up to."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import FORGOTTEN, Ledger
from open_miipher.corpus.rows import Row
from open_miipher.corpus.shard import place

FILE = "input_filepath"
"""Key of a row that names the file which its error speaks of, if that is not the item."""


@dataclass(frozen=True)
class Failure:
    """Failures for one reason, with one of their sentences."""

    reason: str
    count: int
    example: str


@dataclass
class Made:
    """Files that were made, or tried, and the seconds of audio in them."""

    files: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.files += 1
        self.seconds += seconds


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of shards: those that were made, and those that failed."""

    num_made: int
    num_failed: int


@dataclass(frozen=True, slots=True)
class _Newest:
    run: int
    seconds: float
    error: str | None
    is_forgotten: bool
    file: str
    samples: Samples | None


class Tally:
    """All rows of a ledger, read once.

    Args:
        ledger: of a run over all items.
        recent_since: seconds since the epoch.

    Attributes:
        by_run: what each run made.
        last_time: when each run's newest row was written.
        recent: what was made since `recent_since`.
        overall: what was ever made.
        done: what is done now.
        num_failed: items that failed, also in part, and are not forgotten.
        samples: what the items hold, if they are shards.
    """

    def __init__(self, ledger: Ledger, recent_since: float) -> None:
        self.by_run: dict[int, Made] = defaultdict(Made)
        self.last_time: dict[int, float] = defaultdict(float)
        self.recent, self.overall, self.done = Made(), Made(), Made()
        self.num_failed = 0
        self._newest: dict[str, _Newest] = {}
        self._ledger = ledger
        for row in ledger.all_rows():
            self._count(row, recent_since)
        for newest in self._newest.values():
            if newest.error is not None:
                self.num_failed += 1
                self.done.seconds += 0.0 if newest.samples is None else newest.seconds
            elif not newest.is_forgotten:
                self.done.add(newest.seconds)
        known = [n.samples for n in self._newest.values() if n.samples and not n.is_forgotten]
        self.samples = (
            Samples(sum(s.num_made for s in known), sum(s.num_failed for s in known))
            if known
            else None
        )

    def forgotten(self) -> Iterator[tuple[str, int, float]]:
        """Yield (item, run that forgot it, seconds)."""
        for item, newest in self._newest.items():
            if newest.is_forgotten:
                yield item, newest.run, newest.seconds

    def num_known(self, shards: set[int], count: int) -> int:
        """Count the items of these shards, of `count`, that are done or failed."""
        known = (item for item, newest in self._newest.items() if not newest.is_forgotten)
        return sum(place(item, count) in shards for item in known)

    def failed(self) -> dict[str, float]:
        """Return the items that failed, with their seconds as far as they are known."""
        newest = self._newest.items()
        return {item: entry.seconds for item, entry in newest if entry.error is not None}

    def failures(self) -> list[Failure]:
        """Group the failures, the most frequent reason first."""
        counts: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for file, error in self._errors():
            reason = reason_of(file, error)
            counts[reason] += 1
            examples.setdefault(reason, error)
        return [Failure(r, count, examples[r]) for r, count in counts.most_common()]

    def _errors(self) -> Iterator[tuple[str, str]]:
        """Yield the name that an error speaks of, and the error; of shards, one a sample."""
        for item, newest in self._newest.items():
            if newest.error is not None and newest.samples is None:
                yield newest.file, newest.error
            elif newest.error is not None:
                for row in self._ledger.samples(item):
                    if row["error"] is not None:
                        yield str(row.get(FILE, row["input"])), row["error"]

    def _count(self, row: Row, recent_since: float) -> None:
        run, item, seconds = row["run"], row["id"], row.get("seconds", 0.0)
        is_forgotten = FORGOTTEN in row
        if item not in self._newest or run >= self._newest[item].run:
            samples = (
                Samples(row["num_samples"], row["num_failed"]) if "num_samples" in row else None
            )
            self._newest[item] = _Newest(
                run, seconds, row.get("error"), is_forgotten, str(row.get(FILE, item)), samples
            )
        if is_forgotten:
            return
        when = row.get("time", 0.0)
        self.last_time[run] = max(self.last_time[run], when)
        self.by_run[run].add(seconds)
        self.overall.add(seconds)
        if when >= recent_since:
            self.recent.add(seconds)


def reason_of(item: str, error: str) -> str:
    """Return an error's sentence without the file's name and with N for every number."""
    _, named, rest = error.partition(printable(item))
    return re.sub(r"\d+", "N", rest.lstrip(": ") if named else error)
