"""The checkpoint folder: its files, and how they are read and checked.

    ckpt/step-00002000/
        config.yaml              the resolved configuration
        state.json               step, epoch, samples consumed, overrides, number of the save …
        networks.json            how each network is built: registry, plain data, arguments
        NAME.safetensors         weights of each network that has any, except base networks
        NAME.ema.safetensors     their moving average, if one is kept
        training.pt              optimisers and loss scaler; not in what was exported
        NAME/                    the files of a base network, if it was exported with them
        files.json               size and SHA-256 of the other files; written last
    ckpt/latest -> step-00002000
    ckpt/best   -> step-00001000

Loading never runs code: safetensors, JSON, plain YAML and `torch.load(weights_only=True)`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.checkpoint.networks import Blueprint, load_weights, weights_of

CONFIG, STATE, NETWORKS = "config.yaml", "state.json", "networks.json"
TRAINING, FILES = "training.pt", "files.json"
NEWEST, BEST = "newest", "best"
"""Which checkpoint of a run is taken; or a step."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """An open, complete checkpoint folder.

    Attributes:
        path: the folder.
        config: the run's resolved configuration, plain data.
        state: step, epoch and the like.
        networks: how each network is built, by name.
        is_verified: whether the hashes of all files were checked on this machine; if not, each file
            is checked before it is read.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Any]
    networks: dict[str, Blueprint] = field(default_factory=dict)
    is_verified: bool = False

    @classmethod
    def open(cls, path: str | Path, which: str = NEWEST) -> "Checkpoint":
        """Open a checkpoint folder, a `latest` link, a `ckpt` folder or a run's output directory.

        Args:
            path: where it is.
            which: of a `ckpt` folder or an output directory: newest, best, or a step.

        Raises:
            UserError: there is no checkpoint, or it is incomplete or damaged.
        """
        folder = resolve_checkpoint(path, which)
        if not (folder / NETWORKS).exists():
            raise UserError(
                f"{folder} was written by an earlier version of this program; convert it: "
                f"python src/convert_checkpoint.py {folder}"
            )
        opened = cls(folder, {}, {})
        small = {name: opened._checked(name).read_text() for name in (CONFIG, STATE, NETWORKS)}
        plains = json.loads(small[NETWORKS]).items()
        try:
            networks = {name: Blueprint(**plain) for name, plain in plains}
        except TypeError as error:
            raise UserError(
                f"{folder} was written by another version of this program ({NETWORKS} has other "
                "keys); use that version"
            ) from error
        config, state = yaml.safe_load(small[CONFIG]), json.loads(small[STATE])
        return replace(opened, config=config, state=state, networks=networks)

    def verify(self) -> "Checkpoint":
        """Check the hash of every file; the returned checkpoint reads them without checking again.

        Raises:
            UserError: a file is damaged.
        """
        for name in self._listing:
            self._checked(name)
        return replace(self, is_verified=True)

    @property
    def described(self) -> str:
        """Its folder and step, and whether it is its run's newest and best one."""
        links = {NEWEST: "latest", BEST: "best"}
        words = [w for w, link in links.items() if _target(self.path.parent / link) == self.path]
        return f"{self.path} ({', '.join(['step ' + str(self.state['step']), *words])})"

    @property
    def names(self) -> list[str]:
        """The networks whose weights this checkpoint holds."""
        files = (p.name.removesuffix(".safetensors") for p in self.path.glob("*.safetensors"))
        return sorted(name for name in files if not name.endswith(".ema"))

    @property
    def identity(self) -> str:
        """SHA-256 of the list of files and their hashes: equal only for equal checkpoints."""
        return hashlib.sha256((self.path / FILES).read_bytes()).hexdigest()

    def has_ema(self, name: str) -> bool:
        """Whether this checkpoint holds a moving average of a network's weights."""
        return (self.path / f"{name}.ema.safetensors").exists()

    def weights(self, name: str, ema: bool = False) -> dict[str, Tensor]:
        """Map the weights of a network, or their moving average, into memory.

        Raises:
            UserError: this checkpoint has no such weights, or they are damaged.
        """
        file = f"{name}.ema.safetensors" if ema else f"{name}.safetensors"
        if not (self.path / file).exists():
            raise UserError(
                f"{self.path} has no {file}; it holds {', '.join(self.names) or 'no weights'}"
            )
        return safetensors.torch.load_file(self._checked(file))

    def averaged_weights(self, name: str) -> dict[str, Tensor]:
        """Map the moving average of a network's weights if there is one, else the weights.

        Raises:
            UserError: see `weights`.
        """
        return self.weights(name, ema=self.has_ema(name))

    def build(
        self, name: str, ema: bool = True, changes: Mapping[str, Mapping[str, Any]] | None = None
    ) -> nn.Module:
        """Build a network with its weights in this checkpoint, on the CPU.

        Args:
            name: of the network.
            ema: load the moving average if there is one.
            changes: fields of specs to change, by network name; for example, the new path of a base
                network.

        Raises:
            UserError: the network is missing or damaged, or a base network has other weights.
        """
        if name not in self.networks:
            raise UserError(f"{self.path} has no network {name}; it has {', '.join(self.networks)}")
        blueprint, changes = self.networks[name], changes or {}
        own = {"source": str(self.path / name)} if (self.path / name).is_dir() else {}
        changed = replace(blueprint, spec={**blueprint.spec, **own, **changes.get(name, {})})
        parts = {other: self.build(other, ema, changes) for other in blueprint.needed}
        network = changed.build(parts, key=f"{name} of {self.path}")
        if blueprint.fingerprint is not None:
            self.check_base(name, network.fingerprint())
        elif weights_of(network):
            weights = self.averaged_weights(name) if ema else self.weights(name)
            load_weights(network, weights, self.path)
        return network

    def check_base(self, name: str, fingerprint: str) -> None:
        """Check that the networks were trained on a base network with this fingerprint.

        Raises:
            UserError: they were trained on a base network with other weights.
        """
        recorded = self.networks.get(name)
        if recorded is not None and recorded.fingerprint != fingerprint:
            raise UserError(
                f"{self.path} was trained on a base {name} with other weights than model.{name} "
                "loads here; use the same model files"
            )

    def check_resumable(self) -> None:
        """Check that training can go on from here.

        Raises:
            UserError: it holds no more than restoring needs.
        """
        if TRAINING not in self._listing:
            raise UserError(
                f"{self.path} was exported without the state of its training, which cannot go on; "
                f"start another run from its weights: trainer.init_from={self.path}"
            )

    def training_state(self) -> dict[str, Any]:
        """Map the state of the optimisers and the loss scaler into memory.

        Raises:
            UserError: the file is damaged, or was not exported.
        """
        self.check_resumable()
        file = self._checked(TRAINING)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)

    @cached_property
    def _listing(self) -> dict[str, Any]:
        return _listed(self.path)

    def _checked(self, name: str) -> Path:
        """Return the path of a file after checking its hash."""
        file = self.path / name
        if not self.is_verified and not _is_as_listed(file, self._listing.get(name)):
            raise UserError(f"{file} is damaged (its SHA-256 differs); use another checkpoint")
        return file


def resolve_checkpoint(path: str | Path, which: str = NEWEST) -> Path:
    """Find the checkpoint folder for a path that the user gave.

    Args:
        path: a checkpoint folder (or a copy of one, or a link to one), a `ckpt` folder, or a run's
            output directory.
        which: of the checkpoints of the last two: the newest complete one, the best, or a step.

    Raises:
        UserError: there is no complete checkpoint, or not that one; or `which` is something else.
    """
    if which not in (NEWEST, BEST) and not which.isdecimal():
        raise UserError(f"which checkpoint is {which!r}; choose newest, best, or a step (2000)")
    path = Path(path)
    if path.is_symlink() and not path.exists():  # killed while the link's folder was replaced
        path = path.parent
    if not path.exists():
        raise UserError(f"there is no checkpoint at {path}")
    root = path / "ckpt" if (path / "ckpt").is_dir() else path
    if (root / FILES).exists() or (root / STATE).exists():
        problem = incompleteness(root)
        if problem:
            raise UserError(f"the checkpoint {root} is damaged: {problem}; use another one")
        return root.resolve()
    candidates = complete_checkpoints(root)
    if not candidates:
        raise UserError(
            f"{path} holds no complete checkpoint; expected a folder with {FILES}, as "
            "OUTPUT_DIR/ckpt/latest"
        )
    if which == NEWEST:
        return candidates[-1]
    chosen = _target(root / BEST) if which == BEST else (root / f"step-{int(which):08d}").resolve()
    if chosen not in candidates:
        what = "best checkpoint" if which == BEST else f"checkpoint of step {which}"
        names = ", ".join(str(_place(folder)[1]) for folder in candidates)
        raise UserError(f"{path} has no {what}; it has those of steps {names}")
    return chosen


def _target(link: Path) -> Path | None:
    return link.resolve() if link.exists() else None


def complete_checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoint folders in `root`, in the order in which they were saved.

    The order is that of the save numbers, and not of clocks or steps: after a resume from an
    earlier step, the newest checkpoint may not have the highest step.
    """
    if not root.is_dir():
        return []
    folders = {p.resolve() for p in root.iterdir() if not p.name.startswith(".") and p.is_dir()}
    return sorted((p for p in folders if incompleteness(p) is None), key=_place)


def save_number(folder: Path) -> int:
    """Return the number of a complete checkpoint among the saves of its run, counted from 1."""
    return int(json.loads((folder / STATE).read_text()).get("save_number", 0))


def _place(folder: Path) -> tuple[int, int, Path]:
    return save_number(folder), json.loads((folder / STATE).read_text())["step"], folder


def incompleteness(folder: Path) -> str | None:
    """Return why a folder is not a complete checkpoint, or None if it is.

    Only checks sizes, but for the small file by which checkpoints are put in order.
    """
    try:
        listed = _listed(folder)
    except (OSError, ValueError):
        return f"{FILES} is missing or unreadable"
    for name, entry in listed.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
    if not _is_as_listed(folder / STATE, listed.get(STATE)):
        return f"{STATE} is not the file that was written (its SHA-256 differs)"
    return None


def _listed(folder: Path) -> dict[str, Any]:
    """Return the size and the hash of each file of a checkpoint.

    Raises:
        OSError: the list cannot be read.
        ValueError: it is damaged.
    """
    listed = json.loads((folder / FILES).read_text())
    if not isinstance(listed, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in listed.values()
    ):
        raise ValueError(f"{folder / FILES} is no list of files")
    return listed


def _is_as_listed(file: Path, entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and _sha256(file) == entry["sha256"]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
