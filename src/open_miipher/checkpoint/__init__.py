"""The checkpoint folder's format, and building models from names and plain data."""

from open_miipher.checkpoint.building import build, from_mapping, part_config
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
    "build",
    "complete_checkpoints",
    "from_mapping",
    "load_strictly",
    "part_config",
    "point",
    "prune",
    "remove_leftovers",
    "resolve_checkpoint",
    "write_checkpoint",
]
