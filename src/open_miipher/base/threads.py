"""How many things can be done at once, and many small waits at once."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LOOK_THREADS = 16
"""File systems, and object stores all the more, answer many questions at once."""

_BATCH = 64


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where a job may have a share of the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_one_blas_thread() -> None:
    """Have numpy multiply matrices in one thread, where it is not imported yet (or in children).

    The products of this project's signals are so small that its threads do little but wait for each
    other, which they do at full load: two workers on two cores took twice the time of a processor.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def in_threads(
    function: Callable[[T], R],
    things: Iterable[T],
    num_threads: int = LOOK_THREADS,
    batch_size: int = _BATCH,
) -> Iterator[R]:
    """Yield `function` of every thing, in order; a few batches are under way at a time."""

    def work(batch: list[T]) -> list[R]:
        return [function(thing) for thing in batch]

    remaining = iter(things)
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque = deque()
        while batch := list(itertools.islice(remaining, batch_size)):
            ahead.append(pool.submit(work, batch))
            if len(ahead) > 2 * num_threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
