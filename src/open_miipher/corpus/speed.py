"""Speed of many tasks together."""

from collections.abc import Iterable
from dataclasses import dataclass

from open_miipher.corpus.tally import Made

Interval = tuple[float, float]
"""Begin and end, seconds since the epoch."""


@dataclass(frozen=True)
class Speed:
    """How fast files were made.

    Attributes:
        real_time: seconds of audio a second.
        files: a second.
        seconds: in which at least one task was at work.
    """

    real_time: float
    files: float
    seconds: float


def measure(intervals: Iterable[Interval], made: Made, window: Interval) -> Speed | None:
    """Measure what was made in a window against the time somebody worked in it.

    Args:
        intervals: when tasks were at work; they may overlap.
        made: in the window.
        window: what to look at.

    Returns:
        None if nobody worked.
    """
    seconds, reached = 0.0, window[0]
    for begin, end in sorted(intervals):
        begin, end = max(begin, reached), min(end, window[1])
        if end > begin:
            seconds += end - begin
            reached = end
    return Speed(made.seconds / seconds, made.files / seconds, seconds) if seconds > 0 else None
