"""Ranks, collectives and signals: the only place that reads RANK, WORLD_SIZE and SLURM_*."""

from typing import TYPE_CHECKING, Any

from open_miipher.distributed.lock import hold, holder, take, turn
from open_miipher.distributed.place import (
    alike_here,
    is_first_here,
    is_under_torchrun,
    run_as_rank,
    says,
)
from open_miipher.distributed.process import (
    die_with_parent,
    ignore_stop_signals,
    stop_signals_interrupt,
    stop_signals_wait,
)
from open_miipher.distributed.share import Share, pack_shares, share_out
from open_miipher.distributed.stop import REQUEUE, StopSignal, mark_requeue, unless_stopped

if TYPE_CHECKING:
    from open_miipher.distributed.world import World, contact, file_problem, gathered, start

__all__ = [
    "REQUEUE",
    "Share",
    "StopSignal",
    "World",
    "alike_here",
    "contact",
    "die_with_parent",
    "file_problem",
    "gathered",
    "hold",
    "holder",
    "ignore_stop_signals",
    "is_first_here",
    "is_under_torchrun",
    "mark_requeue",
    "pack_shares",
    "run_as_rank",
    "says",
    "share_out",
    "start",
    "stop_signals_interrupt",
    "stop_signals_wait",
    "take",
    "turn",
    "unless_stopped",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for, so that commands answer `-h` at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from open_miipher.distributed import world

    return getattr(world, name)
