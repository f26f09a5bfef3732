"""What the commands that are corpus runs do alike: join the ranks, and say how it ended."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from open_miipher.base.shipped import as_called
from open_miipher.corpus.outcome import INTERRUPTED, Summary

if TYPE_CHECKING:  # what is slow to import comes after the command line was read
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.distributed import World


def as_rank(
    work: "Callable[[World], int]",
    device: str | None,
    less_memory: str,
    ranks_per_device: int = 1,
    cpu_option: str = "--device cpu",
) -> int:
    """Join the ranks, work, leave them; return the exit status.

    Args:
        work: this rank's part of the command; gives the exit status.
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        less_memory: what to use where a GPU's memory does not suffice, for messages.
        ranks_per_device: how many ranks may share a GPU.
        cpu_option: what the command calls the choice of the CPU, for messages.

    Raises:
        UserError: of `distributed.start` and `distributed.contact`.
    """
    from open_miipher.distributed import contact, start

    with contact(less_memory, again="start the same command again"):
        world = start(
            device,
            timeout_minutes=7 * 24 * 60,  # ranks end hours apart
            collectives=False,
            ranks_per_device=ranks_per_device,
            cpu_option=cpu_option,
        )
        try:
            code = work(world)
        except KeyboardInterrupt:  # the second one: the first lets what is in work come to an end
            return INTERRUPTED
        world.close()
    return code


def verified(checkpoint: "Checkpoint", world: "World") -> "Checkpoint":
    """Return a checkpoint whose files are hashed once a machine, by one of its ranks.

    Raises:
        UserError: a file is damaged.
    """
    world.once_a_machine(checkpoint.verify)
    return replace(checkpoint, is_verified=True)


def say_how_it_ended(
    summary: Summary, sentence: str, folder: Path, notes: Iterable[str] = ()
) -> None:
    """Print what a run did, and what can be done about the rest.

    Args:
        summary: of the run.
        sentence: that sums it up.
        folder: of the outputs.
        notes: more lines of this kind of run.
    """
    print(sentence)
    for note in notes:
        print(note)
    if summary.stopped:
        print(f"ended early by {summary.stopped}; the same command goes on with what is left")
    if summary.num_failed:
        status = as_called(f"python src/status.py {shlex.quote(str(folder))}")
        print(f"the reasons: {status}")
        print(f"to try them again: {status} --retry-failed, and then this command")
