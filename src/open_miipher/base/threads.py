"""Many small waits at once."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LOOK_THREADS = 16
"""File systems, and object stores all the more, answer many questions at once."""

_BATCH = 64


def in_threads(
    function: Callable[[T], R], things: Iterable[T], num_threads: int = LOOK_THREADS
) -> Iterator[R]:
    """Yield `function` of every thing, in order; a few batches are under way at a time."""

    def work(batch: list[T]) -> list[R]:
        return [function(thing) for thing in batch]

    remaining = iter(things)
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque = deque()
        while batch := list(itertools.islice(remaining, _BATCH)):
            ahead.append(pool.submit(work, batch))
            if len(ahead) > 2 * num_threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
