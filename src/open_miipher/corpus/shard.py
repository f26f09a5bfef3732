"""One task of a job array: which items are its own."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from open_miipher.base.errors import UserError

_FOLDER = re.compile(r"shard-(\d{5,})-of-(\d{5,})")


@dataclass(frozen=True, order=True)
class Shard:
    """Task `index` of `count`; an item belongs to one of them, whatever is done already.

    Attributes:
        count: of the tasks, at least 1.
        index: 0 … count - 1.

    Raises:
        UserError: on construction, if there is no such task.
    """

    count: int
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(
                f"shard {self.index} of {self.count}: --num-shards must be at least 1, and "
                "--shard-id one of 0 … --num-shards - 1"
            )

    @classmethod
    def from_folder(cls, name: str) -> "Shard | None":
        """Return the shard whose folder has this name, if it is one's."""
        match = _FOLDER.fullmatch(name)
        return cls(int(match[2]), int(match[1])) if match else None

    @property
    def folder(self) -> str:
        """Name of its folder in the ledger."""
        return f"shard-{self.index:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    def own(self, items: Iterable[str]) -> list[str]:
        """Return those of the items that belong to this shard."""
        return [item for item in items if place(item, self.count) == self.index]

    def may_share_with(self, other: "Shard") -> bool:
        """Whether an item can belong to both, by the remainders alone."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


def place(item: str, count: int) -> int:
    """Return the index of the shard, of `count`, that an item id belongs to: SHA-256 mod count."""
    return int.from_bytes(sha256(item.encode("utf-8", "surrogateescape")).digest()) % count
