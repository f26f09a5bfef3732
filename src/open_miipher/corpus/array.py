"""The tasks of a job array: which items each has, and who may work in an output directory now.

A run without an array holds the ledger's lock for itself; the tasks of an array share it, and each
holds the lock of its own folder. What a task decides for all (its number, names, whether it is the
last one) it decides when it is its turn.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from open_miipher.base.errors import UserError
from open_miipher.distributed import hold, holder, take, turn

_FOLDER = re.compile(r"shard-(\d{5,})-of-(\d{5,})")
_TRIES, _BETWEEN_TRIES = 5, 0.05  # s
_PATIENCE = 0.25  # s: whoever asks who holds a lock takes it for an instant


@dataclass(frozen=True)
class OptionNames:
    """What a program calls the options that messages of this folder speak of."""

    overwrite: str = "--overwrite"
    num_shards: str = "--num-shards"
    shard_id: str = "--shard-id"


OF_RESTORING = OptionNames()
OF_PREPROCESSING = OptionNames(
    "preprocess.overwrite=true", "preprocess.num_shards", "preprocess.shard_id"
)
OF_SYNTHESIS = OptionNames(
    "processing.overwrite=true", "processing.num_shards", "processing.shard_id"
)


@dataclass(frozen=True, order=True)
class ArrayTask:
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
    def from_folder(cls, name: str) -> "ArrayTask | None":
        """Return the task whose folder has this name, if it is one's."""
        match = _FOLDER.fullmatch(name)
        return cls(int(match[2]), int(match[1])) if match else None

    @property
    def folder(self) -> str:
        """Name of its folder in the ledger."""
        return f"shard-{self.index:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    def own(self, items: Iterable[str]) -> list[str]:
        """Return those of the items that belong to this task."""
        return [item for item in items if place(item, self.count) == self.index]

    def may_share_with(self, other: "ArrayTask") -> bool:
        """Whether an item can belong to both, by the remainders alone."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


def place(item: str, count: int) -> int:
    """Return which task of `count` an item id belongs to: its SHA-256 modulo the count."""
    return int.from_bytes(sha256(item.encode("utf-8", "surrogateescape")).digest()) % count


class Tenancy:
    """The locks on a ledger's folder (`root`) of a task of an array, or of a run that wants it all.

    They end with `close`, or with this process.
    """

    def __init__(
        self, root: Path, array_task: ArrayTask | None, options: OptionNames = OF_RESTORING
    ) -> None:
        self._root, self._array_task, self._options = root, array_task, options
        self._locks: list[TextIO] = []

    def begin(self) -> None:
        """Take the locks; only inside `turn`.

        Raises:
            UserError: another run, another array, or the same task is at work there.
        """
        where, task = self._root.parent, self._array_task
        working = _at_work(self._root, None if task is None else task.count)
        if working and task is None:
            raise UserError(
                f"{where} is being written by {working}; wait until they end, or start with "
                f"{self._options.num_shards} and {self._options.shard_id} as they were"
            )
        if working:
            raise UserError(
                f"{where} is being written by {working}, and an item may be theirs and {task}'s; "
                f"wait until they end, or use their {self._options.num_shards}"
            )
        if task is None:
            self._locks.append(hold(self._root, _PATIENCE))
            return
        whole = take(self._root, is_shared=True)
        if whole is None:
            raise UserError(
                f"another run, without shards, is writing to {where} "
                f"({holder(self._root) or 'unknown'}); wait for it or choose another output "
                "directory"
            )
        self._locks.append(whole)
        self._locks.append(hold(self._root / task.folder, _PATIENCE))

    def close(self) -> None:
        """Let go of the locks."""
        for lock in self._locks:
            lock.close()
        self._locks.clear()

    @contextmanager
    def alone_at_the_end(self) -> Iterator[bool]:
        """Let go; inside the block nobody else works here, if it is entered with True.

        A task of an array may not write after this.
        """
        if self._array_task is None:
            yield True
            return
        self.close()
        for _ in range(_TRIES):
            with turn(self._root):
                whole = take(self._root)
                if whole is not None:
                    with whole:
                        yield True
                    return
            time.sleep(_BETWEEN_TRIES)
        yield False


def _at_work(root: Path, count: int | None) -> str:
    """Name the tasks at work of arrays of other counts: the first, and how many more."""
    found = []
    for folder in sorted(root.glob("shard-*")):
        task = ArrayTask.from_folder(folder.name)
        if task is not None and task.count != count and (text := holder(folder)) is not None:
            found.append(f"{task} ({text})")
    more = f" and {len(found) - 1} more tasks" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else ""
