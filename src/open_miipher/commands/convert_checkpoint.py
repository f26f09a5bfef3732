"""Convert checkpoints: of earlier versions, or a codec's to a folder that `transformers` reads."""

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_miipher.base.errors import UserError
from open_miipher.commands import Parser

if TYPE_CHECKING:
    from open_miipher.checkpoint import Blueprint

DESCRIPTION = """\
Convert checkpoints of versions before networks.json, in place: adds that file and numbers the saves
of a run. Weights and the optimisers' state do not change. A run can be resumed from a converted
checkpoint, but not bit for bit: its noise is different now, because it is drawn on the device.
Restoring and fine-tuning work as with any checkpoint.

With --codec-to, write the codec of a checkpoint of model=demo_codec as a folder (float16) that
codec.source takes, and EncodecModel.from_pretrained; the checkpoint stays as it is.
"""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument(
        "path",
        type=Path,
        metavar="RUN_DIR|CKPT",
        help="a run's output directory, its ckpt folder, or one checkpoint folder",
    )
    parser.add_argument(
        "--encoder-source",
        metavar="ID|DIR",
        help="path or name of the base encoder, if it has moved since training",
    )
    parser.add_argument(
        "--codec-to", type=Path, metavar="DIR", help="gets the codec; must be empty or missing"
    )
    parser.add_argument(
        "--ckpt",
        default="newest",
        metavar="newest|best|STEP",
        help="which checkpoint of RUN_DIR --codec-to takes (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Find the checkpoints of earlier versions and convert each, or write a codec."""
    arguments = parse_arguments(argv)
    if arguments.codec_to is not None:
        write_codec(arguments.path, arguments.ckpt, arguments.codec_to)
        return 0
    from open_miipher.checkpoint.folder import NETWORKS, STATE, incompleteness

    folders = checkpoint_folders(arguments.path)
    old = [folder for folder in folders if not (folder / NETWORKS).exists()]
    for folder in folders:
        problem = incompleteness(folder)
        if problem is not None:
            raise UserError(f"the checkpoint {folder} is damaged: {problem}; remove it")
    old.sort(key=lambda folder: json.loads((folder / STATE).read_text())["saved_at"])
    for number, folder in enumerate(old, start=1):
        convert(folder, number, arguments.encoder_source)
        print(f"{folder}: converted")
    print(f"{len(old)} converted, {len(folders) - len(old)} already up to date")
    return 0


def write_codec(path: Path, which: str, folder: Path) -> None:
    """Write the codec of a checkpoint as a folder of `transformers`.

    Raises:
        UserError: the checkpoint holds no codec, or the folder is not empty.
    """
    from open_miipher.checkpoint import Checkpoint
    from open_miipher.codec import AudioTokenizer, Encodec

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--codec-to {folder} is there already; give a new or an empty folder")
    checkpoint = Checkpoint.open(path, which)
    codec = checkpoint.build("codec") if "codec" in checkpoint.networks else None
    if not isinstance(codec, Encodec):
        raise UserError(f"{checkpoint.path} holds no codec; give a run of model=demo_codec")
    codec.save(folder)
    written = AudioTokenizer("cpu", str(folder), codec.model.config.target_bandwidths[0])
    print(f"{checkpoint.described}: codec {written.fingerprint} in {folder}")


def checkpoint_folders(path: Path) -> list[Path]:
    """Return the checkpoint folders at a path that the user gave, without links.

    Raises:
        UserError: there is none.
    """
    from open_miipher.checkpoint.folder import FILES

    root = path / "ckpt" if (path / "ckpt").is_dir() else path
    candidates = [root.resolve()] if (root / FILES).exists() else sorted(root.glob("*/"))
    folders = [f for f in candidates if (f / FILES).exists() and not f.is_symlink()]
    folders = [f for f in folders if not f.name.startswith(".")]
    if not folders:
        raise UserError(f"{path} holds no checkpoint")
    return folders


def convert(folder: Path, number: int, encoder_source: str | None) -> None:
    """Write a converted copy of a checkpoint folder, and replace the folder with it.

    Args:
        folder: a complete checkpoint of an earlier version.
        number: of the save.
        encoder_source: path or name of the base encoder; None: as in the checkpoint.

    Raises:
        UserError: the base encoder cannot be loaded, or has other weights.
        OSError: the file system reports an error.
    """
    import yaml

    from open_miipher.base.atomic import sync_folder, temporary_path
    from open_miipher.checkpoint.folder import CONFIG, FILES, NETWORKS, STATE
    from open_miipher.checkpoint.writing import replace_folder

    listing = json.loads((folder / FILES).read_text())
    state = json.loads((folder / STATE).read_text())
    config = yaml.safe_load((folder / CONFIG).read_text())
    names = {name.partition(".")[0] for name in listing if name.endswith(".safetensors")}
    networks = blueprints(config["model"], state.pop("encoder_fingerprint"), names, encoder_source)
    plain = {name: blueprint.plain() for name, blueprint in networks.items()}
    new = {
        STATE: json.dumps({**state, "save_number": number}, indent=2).encode(),
        NETWORKS: json.dumps(plain, indent=2).encode(),
    }
    temporary = temporary_path(folder)
    try:
        temporary.mkdir()
        for name in listing.keys() - new.keys():
            try:
                os.link(folder / name, temporary / name)
            except OSError:  # the file system has no hard links
                shutil.copy2(folder / name, temporary / name)
        for name, data in new.items():
            listing[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        new[FILES] = json.dumps(listing, indent=2).encode()
        for name, data in new.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(temporary)
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def blueprints(
    model: Mapping[str, Any], fingerprint: str, names: set[str], encoder_source: str | None
) -> "dict[str, Blueprint]":
    """Return how to build the networks of an old checkpoint, from its configuration.

    Args:
        model: the `model` part of the configuration.
        fingerprint: of the base encoder.
        names: of the networks whose weights the checkpoint holds.
        encoder_source: path or name of the base encoder; None: as in the configuration.

    Raises:
        UserError: the base encoder cannot be loaded, or has other weights.
    """
    from open_miipher.base.registry import build
    from open_miipher.checkpoint import Blueprint
    from open_miipher.encoders import ENCODERS

    moved = {} if encoder_source is None else {"source": encoder_source}
    encoder = build(ENCODERS, {**model["encoder"], **moved}, key="model.encoder")
    if encoder.fingerprint() != fingerprint:
        raise UserError(
            "the base encoder has other weights than the one that the checkpoint was trained on; "
            "pass that one as --encoder-source"
        )
    features = [encoder.width, encoder.frame_rate]
    every = {
        "encoder": Blueprint("encoder", model["encoder"], [], fingerprint),
        "cleaner": Blueprint("cleaner", model.get("cleaner") or {}, [{"network": "encoder"}]),
        "generator": Blueprint("vocoder", model.get("vocoder") or {}, features),
        "discriminator": Blueprint(
            "discriminator", {"name": "group", "members": model.get("discriminators") or {}}
        ),
    }
    return {name: every[name] for name in ("encoder", *sorted(names))}
