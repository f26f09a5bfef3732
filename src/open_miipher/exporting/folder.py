"""Write a checkpoint folder that holds only what its networks need to work.

It is an ordinary checkpoint folder with less in it, and whatever reads one reads it, but for
training that would go on: weights are the moving averages, and optimisers, discriminators, and
what tells of the machine that trained it (paths, overrides, the run's name) are left out.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_miipher.base.atomic import temporary_path
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.checkpoint import Checkpoint, Content, replace_folder, write_files
from open_miipher.encoders.pretrained import own_files
from open_miipher.exporting.card import CARD, TRAINING, card_of, training_of

_STATE = ("step", "epoch", "samples_consumed", "num_items", "torch")
_SECTIONS = ("name", "codec", "data", "model", "optimizer", "generate")
_PLACES = ("_dir", "dir_list", "urls", "_url", "_profile", "mel_name")
"""Ends of the keys that name places on a machine."""


@dataclass(frozen=True)
class Contents:
    """What an exported folder holds besides what it must.

    Attributes:
        average: moving averages of the weights, where there are any, instead of the weights.
        with_encoder: the files of the base encoder too, so that it is not fetched.
        encoder_source: path or name of the base encoder, if it has moved since training.
        half: weights in float16, half as large; they are not the same numbers any more.
        name: of the model, for its card, such as its id on the hub; None: the configuration's.
        licence: of the weights, for the card, by the hub's identifier (`mit`, `cc-by-4.0`).
        results: summary.json of src/evaluate.py, for the card; None: nothing was measured.
    """

    average: bool = True
    with_encoder: bool = False
    encoder_source: str | None = None
    half: bool = False
    name: str | None = None
    licence: str | None = None
    results: Path | None = None


def export_folder(checkpoint: Checkpoint, folder: Path, contents: Contents | None = None) -> Path:
    """Export a checkpoint; the folder is complete or not there.

    Args:
        checkpoint: of any recipe.
        folder: must be new, or empty.
        contents: what else it holds.

    Returns:
        The folder.

    Raises:
        UserError: the folder is not empty or cannot be written, the checkpoint is damaged, or its
            base encoder is a folder of this machine that is not to come along.
    """
    contents = contents or Contents()
    check_new(folder)
    networks = {n: b for n, b in checkpoint.networks.items() if b.kind != "discriminator"}
    config = without_places({k: v for k, v in checkpoint.config.items() if k in _SECTIONS})
    base_files: dict[str, bytes | Mapping[str, Tensor]] = {}
    for name, blueprint in networks.items():
        if blueprint.fingerprint is None or "source" not in blueprint.spec:
            continue  # nothing is pretrained
        source = contents.encoder_source or _source(checkpoint, name)
        is_here = Path(source).expanduser().exists()
        if contents.with_encoder or (checkpoint.path / name).is_dir():
            base_files |= {f"{name}/{file}": held for file, held in own_files(source).items()}
        elif is_here:
            raise UserError(
                f"the {name} of {checkpoint.path} is {source}, a folder of this machine: pass "
                "--with-encoder to export its files too, or --encoder-source with its id on the hub"
            )
        told = str(blueprint.spec["source"])
        if contents.encoder_source or Path(told).expanduser().exists():
            told = Path(source).name if is_here else source
        networks[name] = replace(blueprint, spec={**blueprint.spec, "source": told})
        if name in config["model"]:
            config["model"][name] = {**config["model"][name], "source": told}
    read = checkpoint.averaged_weights if contents.average else checkpoint.weights
    weights = {name: read(name) for name in networks if name in checkpoint.names}
    if contents.half:
        weights = {name: _halved(tensors) for name, tensors in weights.items()}
    content = Content(
        config=config,
        state={
            **{k: v for k, v in checkpoint.state.items() if k in _STATE},
            TRAINING: training_of(checkpoint),
        },
        weights=weights,
        training=None,
        networks=networks,
    )
    card = card_of(checkpoint, content, contents.name, contents.licence, contents.results)
    temporary = temporary_path(folder.absolute())
    try:
        write_files(temporary, content, 1, base_files)
        (temporary / CARD).write_text(card, encoding="utf-8")
        replace_folder(temporary, folder.absolute())
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{printable(folder)} cannot be written: {error.strerror}") from error
    return folder


def check_new(folder: Path) -> None:
    """Check that nothing is in the way of an export.

    Raises:
        UserError: there is a file, or a folder that is not empty.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise UserError(f"{printable(folder)} exists and is not empty: choose another folder")


def without_places(plain: Any) -> Any:
    """Return a configuration without the keys that name folders and files of a machine."""
    if not isinstance(plain, Mapping):
        return plain
    kept = {k: v for k, v in plain.items() if not str(k).endswith(_PLACES) or v is None}
    return {key: without_places(value) for key, value in kept.items()}


def _source(checkpoint: Checkpoint, name: str) -> str:
    own = checkpoint.path / name
    return str(own) if own.is_dir() else str(checkpoint.networks[name].spec["source"])


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.half() if t.dtype == torch.float32 else t for n, t in tensors.items()}
