"""Votes of the report's blind test: read from the files that listeners saved, and summed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.evaluation.tables import format_table

_FORMAT = "open-miipher votes 1"
_FIELDS = ("file", "first", "second", "better", "time")


@dataclass(frozen=True)
class Vote:
    """What a listener said of two sounds.

    Attributes:
        listener: the name given.
        file: of the recording.
        first: one system.
        second: the other.
        better: one of these two; None: no difference.
        time: in ISO 8601, UTC.
    """

    listener: str
    file: str
    first: str
    second: str
    better: str | None
    time: str


@dataclass(frozen=True)
class Preference:
    """All votes on one pair of systems.

    Attributes:
        first: one system.
        second: the other.
        for_first: votes that prefer it.
        for_second: likewise.
        undecided: votes for no difference.
        listeners: how many voted.
        share: of the first among the votes that prefer one; None: there are none.
        low: lower end of the share's exact 95 % interval (Clopper and Pearson, "The use of
            confidence or fiducial limits illustrated in the case of the binomial", 1934).
        high: its upper end.
    """

    first: str
    second: str
    for_first: int
    for_second: int
    undecided: int
    listeners: int
    share: float | None
    low: float
    high: float


def read_votes(paths: Sequence[Path]) -> list[Vote]:
    """Return all votes; of the same listener on the same sounds, the last one.

    Raises:
        UserError: a file holds no votes, or they are of different reports.
    """
    votes: dict[tuple[str, ...], Vote] = {}
    reports: dict[str, Path] = {}
    for path in paths:
        content = _read(path)
        reports.setdefault(content["report"], path)
        for given in content["votes"]:
            vote = Vote(content["listener"], **{name: given[name] for name in _FIELDS})
            key = vote.listener, vote.file, vote.first, vote.second
            if key not in votes or votes[key].time <= vote.time:
                votes[key] = vote
    if len(reports) > 1:
        names = " and ".join(printable(path) for path in reports.values())
        report([f"{names} are votes on different reports: sum those of each report by themselves"])
    return list(votes.values())


def _read(path: Path) -> dict[str, Any]:
    wrong = f"{printable(path)} holds no votes as the report's blind test saves them"
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{wrong}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f'{wrong}: its "format" is not "{_FORMAT}"')
    texts = [content.get("report"), content.get("listener")]
    given = content.get("votes")
    if not all(isinstance(x, str) for x in texts) or not isinstance(given, list):
        raise UserError(f"{wrong}: it needs report, listener and votes")
    for number, vote in enumerate(given, start=1):
        if not isinstance(vote, dict) or not _is_vote(vote):
            raise UserError(f"{wrong}: vote {number} is not whole")
    return content


def _is_vote(vote: dict[str, Any]) -> bool:
    texts = [vote.get(name) for name in ("file", "first", "second", "time")]
    known = vote.get("better", "") in (vote.get("first"), vote.get("second"), None)
    return known and all(isinstance(text, str) for text in texts)


def sum_votes(votes: Iterable[Vote]) -> list[Preference]:
    """Sum votes by pair of systems, in the order in which pairs appear.

    The interval takes votes as independent; those of one listener, or on one file, are not quite,
    so that it is narrow if there are few of either.
    """
    from scipy.stats import binomtest  # slow to import

    pairs: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        pair = vote.first, vote.second
        pairs.setdefault(pair[::-1] if pair[::-1] in pairs else pair, []).append(vote)
    found = []
    for (first, second), given in pairs.items():
        ones, others, none = (sum(v.better == x for v in given) for x in (first, second, None))
        decided = ones + others
        share, low, high = None, 0.0, 1.0
        if decided:
            interval = binomtest(ones, decided).proportion_ci(0.95, "exact")
            share, low, high = ones / decided, float(interval.low), float(interval.high)
        listeners = len({vote.listener for vote in given})
        found.append(Preference(first, second, ones, others, none, listeners, share, low, high))
    return found


def votes_table(preferences: Sequence[Preference]) -> str:
    """Format sums of votes; a share whose interval does not hold 0.5 is a clear preference."""
    header = ["first", "second", "for first", "none", "for second", "listeners", "share", "95 %"]
    rows = [
        [
            *(printable(x.first), printable(x.second)),
            *map(str, (x.for_first, x.undecided, x.for_second, x.listeners)),
            "-" if x.share is None else f"{x.share:.2f}",
            f"{x.low:.2f} … {x.high:.2f}",
        ]
        for x in preferences
    ]
    return format_table(header, rows)
