"""Share items out between the ranks, so that each gets about as much work."""

import heapq
import math
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from open_miipher.distributed.stop import StopSignal

if TYPE_CHECKING:
    from open_miipher.distributed.world import World

_PACKED = 4096  # items that are handed to a rank, and kept there, as one piece


class Costly(Protocol):
    """An item of work (picklable): its name, and its share of the work."""

    @property
    def id(self) -> str:
        """Its name among all items."""

    @property
    def cost(self) -> float:
        """Its share of the work, in any unit."""


T = TypeVar("T", bound=Costly)


class Share(Iterator[T]):
    """The items of one rank, the costliest first, until a signal asks it to stop.

    They are kept packed, some 50 bytes each, and unpacked a few thousand at a time.

    Args:
        stop: the signal.

    Attributes:
        num_items, cost: of all.
        under_way: gives the cost of what is done of the items under way; whoever works says it.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._packed: list[bytes] = []
        self._unpacked: Iterator[T] = iter(())
        self._costs: dict[str, float] = {}  # of the items under way
        self.num_items, self.cost = 0, 0.0
        self.under_way: Callable[[], float] = lambda: 0.0

    def add(self, packed: bytes, num_items: int, cost: float) -> None:
        """Take items that `_pack` packed."""
        self._packed.append(packed)
        self.num_items += num_items
        self.cost += cost

    @property
    def stopped(self) -> bool:
        """Whether no more items come; those under way may be given up: they are done again."""
        return self._stop.received is not None

    def __next__(self) -> T:
        if self.stopped:
            raise StopIteration
        item = next(self._unpacked, None)
        if item is None:
            if not self._packed:
                raise StopIteration
            self._unpacked = iter(pickle.loads(zlib.decompress(self._packed.pop(0))))
            item = next(self._unpacked)
        self._costs[item.id] = item.cost
        return item

    def end(self, item: str) -> float:
        """Forget an item whose row came; returns its cost, 0 of one that was never handed out."""
        return self._costs.pop(item, 0.0)


def share_out(items: list[T], world: "World", stop: StopSignal) -> Share[T]:
    """Give every rank its own items and no others, so that millions fit beside a model.

    The items are given on rank 0; the list is empty afterwards, so that they are in memory once.
    """
    pieces = pack_shares(items, world.size) if world.is_main else []
    share: Share[T] = Share(stop)
    for number in range(world.broadcast(max(map(len, pieces), default=0))):
        round_ = [piece[number] if number < len(piece) else None for piece in pieces]
        own = world.scatter(round_)
        if own is not None:
            share.add(*own)
    return share


def pack_shares(items: list[T], num_ranks: int) -> list[list[tuple[bytes, int, float]]]:
    """Share items out so that every rank gets about as much work; the costliest come first.

    Greedy: the next costliest item goes to the rank with the least. They are taken out of the list.

    Returns:
        What `Share.add` takes, for every rank, in order.
    """
    shares: list[list[tuple[bytes, int, float]]] = [[] for _ in range(num_ranks)]
    waiting: list[list[T]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    items.sort(key=lambda item: (-item.cost, item.id))
    items.reverse()
    while items:
        item, (load, rank) = items.pop(), loads[0]
        heapq.heapreplace(loads, (load + item.cost, rank))
        waiting[rank].append(item)
        if len(waiting[rank]) == _PACKED:
            shares[rank].append(_pack(waiting[rank]))
            waiting[rank] = []
    for share, rest in zip(shares, waiting, strict=True):
        share += [_pack(rest)] if rest else []
    return shares


def _pack(items: list[T]) -> tuple[bytes, int, float]:
    data = zlib.compress(pickle.dumps(items, pickle.HIGHEST_PROTOCOL), 1)
    return data, len(items), math.fsum(item.cost for item in items)
