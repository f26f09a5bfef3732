"""The checkpoint folder: write, read, verify and prune it, and build networks from it."""

from open_miipher.checkpoint.folder import (
    BEST,
    NEWEST,
    Checkpoint,
    complete_checkpoints,
    resolve_checkpoint,
)
from open_miipher.checkpoint.networks import Blueprint, load_weights, weights_of
from open_miipher.checkpoint.writing import (
    Content,
    prune,
    remove_leftovers,
    replace_folder,
    set_aside,
    snapshot,
    write_checkpoint,
    write_files,
)

__all__ = [
    "BEST",
    "NEWEST",
    "Blueprint",
    "Checkpoint",
    "Content",
    "complete_checkpoints",
    "load_weights",
    "prune",
    "remove_leftovers",
    "replace_folder",
    "resolve_checkpoint",
    "set_aside",
    "snapshot",
    "weights_of",
    "write_checkpoint",
    "write_files",
]
