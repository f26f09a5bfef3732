"""The checkpoint folder: write, read, verify and prune it, and build networks from it."""

from open_miipher.checkpoint.folder import Checkpoint, complete_checkpoints, resolve_checkpoint
from open_miipher.checkpoint.networks import Blueprint, load_weights, weights_of
from open_miipher.checkpoint.writing import (
    Content,
    prune,
    remove_leftovers,
    write_checkpoint,
)

__all__ = [
    "Blueprint",
    "Checkpoint",
    "Content",
    "complete_checkpoints",
    "load_weights",
    "prune",
    "remove_leftovers",
    "resolve_checkpoint",
    "weights_of",
    "write_checkpoint",
]
