"""The checkpoint folder: written, read, verified, pruned."""

from open_miipher.checkpoint.folder import Checkpoint, complete_checkpoints, resolve_checkpoint
from open_miipher.checkpoint.loading import load_strictly
from open_miipher.checkpoint.writing import (
    Content,
    point,
    prune,
    remove_leftovers,
    write_checkpoint,
)

__all__ = [
    "Checkpoint",
    "Content",
    "complete_checkpoints",
    "load_strictly",
    "point",
    "prune",
    "remove_leftovers",
    "resolve_checkpoint",
    "write_checkpoint",
]
