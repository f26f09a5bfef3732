"""The checkpoint folder: what is in it, read back and checked.

    ckpt/step-00002000/
        config.yaml              the resolved configuration
        state.json               step, epoch, samples consumed, fingerprints, overrides …
        NAME.safetensors         weights of each network (frozen base encoders excepted)
        NAME.ema.safetensors     their moving average, where one is kept
        training.pt              optimisers, schedules, loss scaler
        files.json               bytes and SHA-256 of the others; written last
    ckpt/latest -> step-00002000
    ckpt/best   -> step-00001000

Loading never runs code: safetensors, JSON, plain YAML and `torch.load(weights_only=True)`.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from open_miipher.base.errors import UserError

CONFIG, STATE, TRAINING, FILES = "config.yaml", "state.json", "training.pt", "files.json"


@dataclass(frozen=True)
class Checkpoint:
    """An open, complete checkpoint folder.

    Attributes:
        path: the folder.
        config: the run's resolved configuration, plain data.
        state: step, epoch and the like.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Open a checkpoint folder, a `latest` link, a `ckpt` folder or a run's output directory.

        Raises:
            UserError: there is none, or it is incomplete.
        """
        folder = resolve_checkpoint(path)
        state = json.loads(_read(folder, STATE))
        config = yaml.safe_load(_read(folder, CONFIG))
        return cls(folder, config, state)

    @property
    def names(self) -> list[str]:
        """The networks whose weights are here."""
        files = (p.name.removesuffix(".safetensors") for p in self.path.glob("*.safetensors"))
        return sorted(name for name in files if not name.endswith(".ema"))

    def has_ema(self, name: str) -> bool:
        """Whether a moving average of this network's weights is here."""
        return (self.path / f"{name}.ema.safetensors").exists()

    def weights(self, name: str, ema: bool = False) -> dict[str, Tensor]:
        """Read the weights of a network, or their moving average.

        Raises:
            UserError: this checkpoint has none of that name, or they are damaged.
        """
        file = f"{name}.ema.safetensors" if ema else f"{name}.safetensors"
        if not (self.path / file).exists():
            raise UserError(
                f"{self.path} has no {file}; it holds {', '.join(self.names) or 'no weights'}"
            )
        return safetensors.torch.load(_read(self.path, file))

    def averaged_weights(self, name: str) -> dict[str, Tensor]:
        """Read the moving average of a network's weights where one is kept, else the weights.

        Raises:
            UserError: as `weights`.
        """
        return self.weights(name, ema=self.has_ema(name))

    def check_encoder(self, fingerprint: str) -> None:
        """Check that the networks were trained on a base encoder with this fingerprint.

        Raises:
            UserError: they were trained on other weights.
        """
        if self.state["encoder_fingerprint"] != fingerprint:
            raise UserError(
                f"{self.path} was trained on a base encoder with other weights than model.encoder "
                "loads here; use the same model files"
            )

    def training_state(self) -> dict[str, Any]:
        """Read the optimisers', schedules' and scaler's state.

        Raises:
            UserError: it is damaged.
        """
        return torch.load(
            io.BytesIO(_read(self.path, TRAINING)), map_location="cpu", weights_only=True
        )


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint folder that a user's path means.

    Args:
        path: a checkpoint folder (or a copy of one, or a link to one), a `ckpt` folder, or a run's
            output directory. The latter two give the complete checkpoint that was written last.

    Raises:
        UserError: there is no complete checkpoint there.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():  # its folder was being replaced when a kill came
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
    return candidates[-1]


def complete_checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoint folders in `root`, the one written last at the end."""
    if not root.is_dir():
        return []
    folders = {p.resolve() for p in root.iterdir() if not p.name.startswith(".") and p.is_dir()}
    complete = [p for p in folders if incompleteness(p) is None]
    return sorted(complete, key=lambda p: (json.loads((p / STATE).read_text())["saved_at"], p))


def incompleteness(folder: Path) -> str | None:
    """Say what keeps a folder from being a complete checkpoint, or None. Reads sizes only."""
    try:
        listed = json.loads((folder / FILES).read_text())
    except (OSError, ValueError):
        return f"{FILES} is missing or unreadable"
    for name, entry in listed.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
    return None


def _read(folder: Path, name: str) -> bytes:
    content = (folder / name).read_bytes()
    expected = json.loads((folder / FILES).read_text())[name]["sha256"]
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"{folder / name} is damaged (its SHA-256 differs); use another checkpoint")
    return content
