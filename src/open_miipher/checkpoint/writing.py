"""Writing checkpoints so that a kill at any instant leaves a complete one behind."""

import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from open_miipher.base.errors import UserError
from open_miipher.checkpoint.folder import (
    CONFIG,
    FILES,
    STATE,
    TRAINING,
    complete_checkpoints,
    incompleteness,
)


@dataclass(frozen=True)
class Content:
    """What goes into one checkpoint.

    Attributes:
        config: the resolved configuration, plain data.
        state: plain data; holds at least `step`.
        weights: network name to its weights.
        ema: network name to their moving average.
        training: optimiser, schedule and scaler state, tensors and plain data.
    """

    config: Mapping[str, Any]
    state: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, Tensor]]
    ema: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(root: Path, content: Content, best: bool = False) -> Path:
    """Write `root/step-NNNNNNNN` and point `latest`, and maybe `best`, at it.

    Files are written to a temporary folder, synchronised to disk, and renamed.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints stay as they are.
    """
    final = root / f"step-{content.state['step']:08d}"
    temporary = root / f".{final.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, content)
        if final.exists():  # a resumed run has come to this step again
            replaced = root / f".{final.name}.{os.getpid()}.old.tmp"
            final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced)
        else:
            temporary.rename(final)
        _sync(root)
        if best:  # before `latest`, whose state says that this is the best
            point(root / "best", final)
        point(root / "latest", final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = complete_checkpoints(root)
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise UserError(
            f"cannot write the checkpoint {final}: {what}; the newest complete one is "
            f"{kept[-1] if kept else 'none'}"
        ) from error
    return final


def _write_files(folder: Path, content: Content) -> None:
    state = {**content.state, "saved_at": time.time()}
    buffer = io.BytesIO()
    torch.save(dict(content.training), buffer)
    files = {
        CONFIG: yaml.safe_dump(dict(content.config), sort_keys=False, allow_unicode=True).encode(),
        STATE: json.dumps(state, indent=2).encode(),
        TRAINING: buffer.getvalue(),
    }
    for suffix, networks in (("", content.weights), (".ema", content.ema)):
        for name, tensors in networks.items():
            plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            files[f"{name}{suffix}.safetensors"] = safetensors.torch.save(plain)
    listing = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    for name, data in files.items():
        _write(folder / name, data)
    _write(folder / FILES, json.dumps(listing, indent=2).encode())
    _sync(folder)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(link: Path, folder: Path) -> None:
    """Make `link` a relative link to its sibling `folder`, switched by one rename."""
    if link.is_dir() and not link.is_symlink():
        _adopt_copy(link)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def _adopt_copy(link: Path) -> None:
    """Move a plain folder out of the link's place (the run was copied without keeping links)."""
    step = json.loads((link / STATE).read_text())["step"]
    home = link.with_name(f"step-{step:08d}")
    if incompleteness(home) is None:
        shutil.rmtree(link)  # a second copy of the same step
    else:
        link.rename(home)


def prune(root: Path, keep_last: int) -> None:
    """Remove old checkpoints, but for the newest `keep_last` and those that links point to."""
    kept = {p.resolve() for p in root.iterdir() if p.is_symlink()}
    for folder in complete_checkpoints(root)[:-keep_last]:
        if folder not in kept and folder.name.startswith("step-"):
            doomed = root / f".{folder.name}.{os.getpid()}.tmp"
            folder.rename(doomed)  # a kill in the middle leaves no half checkpoint under its name
            shutil.rmtree(doomed)


def remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of killed runs; only the owner of the run's lock may."""
    for path in root.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
