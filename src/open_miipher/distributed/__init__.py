"""Ranks, collectives and signals: the only place that reads RANK, WORLD_SIZE and SLURM_*."""

from open_miipher.distributed.lock import hold
from open_miipher.distributed.process import die_with_parent, ignore_stop_signals
from open_miipher.distributed.stop import REQUEUE, StopSignal, mark_requeue
from open_miipher.distributed.world import (
    World,
    alike_here,
    contact,
    file_problem,
    is_first_here,
    run_as_rank,
    says,
    start,
)

__all__ = [
    "REQUEUE",
    "StopSignal",
    "World",
    "alike_here",
    "contact",
    "die_with_parent",
    "file_problem",
    "hold",
    "ignore_stop_signals",
    "is_first_here",
    "mark_requeue",
    "run_as_rank",
    "says",
    "start",
]
