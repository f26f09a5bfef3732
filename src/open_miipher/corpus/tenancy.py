"""Who works in an output directory: one run alone, or the tasks of one job array.

A run without shards holds the ledger's lock for itself; the tasks of an array share it, and each
holds the lock of its own folder. What a task decides for all (its number, names, whether it is the
last one) it decides when it is its turn.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from open_miipher.base.errors import UserError
from open_miipher.corpus.shard import Shard
from open_miipher.distributed import hold

_TRIES, _BETWEEN_TRIES = 5, 0.05  # s; to ask who holds a lock takes it for an instant


class Tenancy:
    """Locks on a ledger's folder; they end with this process.

    Args:
        root: the ledger's folder.
        shard: the task that asks, or None for a run that wants all of it.
    """

    def __init__(self, root: Path, shard: Shard | None) -> None:
        self._root, self._shard = root, shard
        self._locks: list[TextIO] = []

    def begin(self) -> None:
        """Take the place; only inside `turn`.

        Raises:
            UserError: another run, another array, or the same task is at work there.
        """
        if self._shard is None:
            working = tasks_at_work(self._root)
            if working:
                raise UserError(
                    f"{self._root.parent} is being written by {describe(working)}; wait until "
                    "they end, or start with --num-shards and --shard-id as they were"
                )
            self._locks = [hold(self._root, _TRIES * _BETWEEN_TRIES)]
            return
        count = self._shard.count
        others = tasks_at_work(self._root, lambda shard: shard.count != count)
        if others:
            raise UserError(
                f"{self._root.parent} is being written by {describe(others)}, and an item may be "
                f"theirs and {self._shard}'s; wait until they end, or use their --num-shards"
            )
        whole = self._share()
        self._locks = [whole, hold(self._root / self._shard.folder, _TRIES * _BETWEEN_TRIES)]

    @contextmanager
    def alone_at_the_end(self) -> Iterator[bool]:
        """Give up the place; inside the block nobody else works here, if it is entered with True.

        A task of an array may not write after this.
        """
        if self._shard is None:
            yield True
            return
        for lock in self._locks:
            lock.close()
        self._locks.clear()
        for _ in range(_TRIES):
            with turn(self._root), (self._root / ".lock").open("a+") as file:
                if _locked(file, fcntl.LOCK_EX):
                    yield True
                    return
            time.sleep(_BETWEEN_TRIES)
        yield False

    def _share(self) -> TextIO:
        file = (self._root / ".lock").open("a+")
        if _locked(file, fcntl.LOCK_SH):  # nobody holds it for an instant: that is done in turns
            return file
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"another run, without shards, is writing to {self._root.parent} ({owner}); wait for "
            "it or choose another output directory"
        )


@contextmanager
def turn(root: Path) -> Iterator[None]:
    """Wait for the turn to decide something for all tasks; keep it short.

    Raises:
        UserError: the folder cannot be written, or knows no locks.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".turn").open("a")
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{root} lies on a file system without file locks ({error.strerror}), so two runs "
                "could write it at once; choose another one (Lustre: mounted with -o flock)"
            ) from error
        yield


def holder(folder: Path) -> str | None:
    """Return what the holder of a folder's lock wrote into it; None if nobody holds it.

    Takes no lock for itself, writes nothing, and works on a read-only mount.
    """
    try:
        file = (folder / ".lock").open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None


def tasks_at_work(
    root: Path, asked: Callable[[Shard], bool] = lambda shard: True
) -> dict[Shard, str]:
    """Return the array tasks that hold their folder's lock, with what they wrote into it."""
    found = {}
    for folder in sorted(root.glob("shard-*")):
        shard = Shard.from_folder(folder.name)
        if shard is not None and asked(shard):
            text = holder(folder)
            if text is not None:
                found[shard] = text
    return found


def describe(working: dict[Shard, str]) -> str:
    """Name tasks at work in a sentence: the first, and how many others."""
    first, text = next(iter(working.items()))
    more = f" and {len(working) - 1} more tasks" if len(working) > 1 else ""
    return f"{first} ({text}){more}"


def _locked(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
