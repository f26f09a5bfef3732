"""Write checkpoints so that a kill at any time leaves a complete one behind."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from open_miipher.base.atomic import sync_folder, temporary_path
from open_miipher.base.errors import UserError
from open_miipher.checkpoint.folder import (
    CONFIG,
    FILES,
    NETWORKS,
    STATE,
    TRAINING,
    complete_checkpoints,
    incompleteness,
    save_number,
)
from open_miipher.checkpoint.networks import Blueprint

# Names of types in safetensors (its README, "Format").
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Content:
    """The content of one checkpoint.

    Attributes:
        config: the resolved configuration, plain data.
        state: plain data; has at least `step`.
        weights: network name to its weights.
        ema: network name to the moving average of its weights.
        training: state of the optimisers and the loss scaler, tensors and plain data; None: left
            out, so that no run can go on from here.
        networks: network name to how it is built, base networks included.
    """

    config: Mapping[str, Any]
    state: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, Tensor]]
    ema: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    training: Mapping[str, Any] | None = field(default_factory=dict)
    networks: Mapping[str, Blueprint] = field(default_factory=dict)


def snapshot(content: Content) -> Content:
    """Copy every tensor to the host, so that training may go on while the copy is written.

    What the weights and their average share is copied once, and is shared by the copies.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if place not in copies:
                copies[place] = value.detach().to("cpu", copy=True)
            return copies[place]
        if isinstance(value, Mapping):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list) else value

    return replace(
        content,
        weights=copied(content.weights),
        ema=copied(content.ema),
        training=copied(content.training),
    )


def write_checkpoint(root: Path, content: Content, best: bool = False) -> Path:
    """Write `root/step-NNNNNNNN`, and point the links `latest` and, if asked, `best` to it.

    Files are written to a temporary folder and synchronised to disk, then the folder is renamed.
    Tensors are written and hashed one after the other, so that memory holds a copy of only one.

    Args:
        root: the run's `ckpt` folder.
        content: what to write.
        best: also point `best` to it.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are not changed.
    """
    final = root / f"step-{content.state['step']:08d}"
    temporary = temporary_path(final)
    number = 1 + max(map(save_number, complete_checkpoints(root)), default=0)
    try:
        write_files(temporary, content, number)
        replace_folder(temporary, final)
        if best:  # before `latest`: the state of that checkpoint already has the best score
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


def replace_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to `final`; an older folder there is replaced.

    There is an older one if a resumed run saves a step again.

    Raises:
        OSError: the file system reports an error.
    """
    replaced = final.with_name(f".{final.name}.{os.getpid()}.old.tmp")
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    sync_folder(final.parent)
    # If it cannot be removed now (another process is reading it), `prune` tries again.
    shutil.rmtree(replaced, ignore_errors=True)


def write_files(
    folder: Path,
    content: Content,
    number: int,
    base_files: Mapping[str, bytes | Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint's files into a new folder.

    Args:
        folder: is made.
        content: what to write.
        number: of the save in its run.
        base_files: of base networks, content or tensors by path (`NAME/config.json`).

    Raises:
        OSError: the file system reports an error.
    """
    folder.mkdir(parents=True)
    state = {**content.state, "save_number": number, "saved_at": time.time()}
    networks = {name: blueprint.plain() for name, blueprint in content.networks.items()}
    config = yaml.safe_dump(dict(content.config), sort_keys=False, allow_unicode=True)
    small = {
        CONFIG: config,
        STATE: json.dumps(state, indent=2),
        NETWORKS: json.dumps(networks, indent=2),
    }
    listing: dict[str, Any] = {}
    for name, text in small.items():
        with _written(folder, name, listing) as file:
            file.write(text.encode())
    if content.training is not None:
        with _written(folder, TRAINING, listing) as file:
            _save(content.training, file)
    for suffix, of_networks in (("", content.weights), (".ema", content.ema)):
        for name, tensors in of_networks.items():
            if tensors:  # a network without weights has no file
                with _written(folder, f"{name}{suffix}.safetensors", listing) as file:
                    _write_tensors(file, tensors)
    for name, held in (base_files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        with _written(folder, name, listing) as file:
            file.write(held) if isinstance(held, bytes) else _write_tensors(file, held)
    with _written(folder, FILES, {}) as file:
        file.write(json.dumps(listing, indent=2).encode())
    sync_folder(folder)


class _HashedFile:
    """A file that counts and hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> dict[str, Any]:
        """Synchronise the file to disk, and return its entry in `files.json`."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        self._file.close()


@contextmanager
def _written(folder: Path, name: str, listing: dict[str, Any]) -> Iterator[_HashedFile]:
    file = _HashedFile(folder / name)
    try:
        yield file
        listing[name] = file.finish()
    finally:
        file.close()


def _save(training: Mapping[str, Any], file: _HashedFile) -> None:
    """Write what `torch.load` reads.

    Raises:
        OSError: the file system reports an error.
    """
    try:
        torch.save(dict(training), file)
    except RuntimeError as error:  # torch closes its archive after the refusal, which fails too
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _write_tensors(file: _HashedFile, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, one tensor at a time.

    The safetensors library joins all tensors in memory first, and refuses tensors that share
    storage (tied weights). Here each name gets a copy; it loads whether the network ties them or
    not.
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data must begin at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for tensor in tensors.values():
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(plain.view(torch.uint8).numpy().data)


def point(link: Path, folder: Path) -> None:
    """Make `link` a relative link to its sibling `folder`; an older link is replaced atomically."""
    if link.is_dir() and not link.is_symlink():
        _adopt_copy(link)
    temporary = temporary_path(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def _adopt_copy(link: Path) -> None:
    """Move a plain folder away from a link's path (the run was copied without keeping links)."""
    step = json.loads((link / STATE).read_text())["step"]
    home = link.with_name(f"step-{step:08d}")
    if incompleteness(home) is None:
        shutil.rmtree(link)  # a second copy of the same step
    else:
        link.rename(home)


def set_aside(root: Path, resumed: Path) -> Path | None:
    """Move the checkpoints that were saved after the resumed one to `root/abandoned-…`.

    A run that goes on from an older checkpoint leaves them behind: they would pass for its own, and
    for its best. The links then point to what is left; `best` goes if its checkpoint was moved.
    Going back to such a branch sets aside all that was saved since it was left.

    Only the owner of the run's lock may call this.

    Returns:
        The folder; None if there are no such checkpoints.

    Raises:
        UserError: they cannot be moved.
    """
    number = save_number(resumed)
    if resumed.parent.parent == root.resolve():
        number = min(map(save_number, complete_checkpoints(resumed.parent))) - 1
    later = [p for p in complete_checkpoints(root) if save_number(p) > number and p != resumed]
    if not later:
        return None
    folder = root / time.strftime("abandoned-%Y%m%d-%H%M%S")
    best = (root / "best").resolve()
    try:
        folder.mkdir(exist_ok=True)
        for checkpoint in reversed(later):
            checkpoint.rename(folder / checkpoint.name)
        if best in later:
            (root / "best").unlink()
            point(folder / "best", folder / best.name)
        left = complete_checkpoints(root)
        if left:
            point(root / "latest", left[-1])
        else:
            (root / "latest").unlink(missing_ok=True)
        sync_folder(root)
    except OSError as error:
        raise UserError(
            f"the checkpoints after {resumed} cannot be moved to {folder}: {error.strerror}"
        ) from error
    return folder


def prune(root: Path, keep_last: int) -> list[str]:
    """Remove old checkpoints, except the newest `keep_last` and those that links point to.

    Only the owner of the run's lock may call this.

    Returns:
        One sentence for each folder that could not be removed; none of them should end a run.
    """
    problems = []
    kept = {p.resolve() for p in root.iterdir() if p.is_symlink()}
    for folder in complete_checkpoints(root)[:-keep_last]:
        if folder not in kept and folder.name.startswith("step-"):
            try:  # renamed first: a kill leaves no partly removed checkpoint under its name
                folder.rename(temporary_path(folder))
            except OSError as error:
                problems.append(f"the old checkpoint {folder} cannot be removed: {error.strerror}")
    return problems + remove_leftovers(root)


def remove_leftovers(root: Path) -> list[str]:
    """Remove temporary files and folders, also those of killed runs.

    Only the owner of the run's lock may call this.

    Returns:
        One sentence for each path that could not be removed.
    """
    problems = []
    for path in root.glob(".*.tmp"):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            problems.append(f"the leftover {path} cannot be removed: {error.strerror}")
    return problems
