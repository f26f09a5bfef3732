"""Fetch pretrained encoders and codecs into a cache, for machines without a network."""

import argparse
import errno
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import existing_parent
from open_miipher.base.shipped import shipped
from open_miipher.commands import Parser

CONFIG_DIR = shipped("config/encoder")
DESCRIPTION = """\
Fetch pretrained encoders, and EnCodec, into the Hugging Face cache, check them, and print the lines
that make machines without a network use them. Of the multimodal Gemma checkpoints only the audio
tower is fetched. An interrupted fetch is gone on with.

A gated model needs its licence accepted on the hub, and a token in HF_TOKEN or in the file that
HF_TOKEN_PATH names; it is never printed.
"""

# By what a checkpoint's config.json says it is.
_CLASSES = {
    **dict.fromkeys(("gemma4", "gemma4_audio"), "usm_gemma4"),
    **dict.fromkeys(("gemma3n", "gemma3n_audio"), "usm_gemma3n"),
    **dict.fromkeys(("wav2vec2-bert", "hubert", "wav2vec2", "wavlm"), "transformers"),
    "encodec": "encodec",
}
_DEPTH_KEYS = {"transformers": "layer", "usm_gemma4": "num_layers", "usm_gemma3n": "num_layers"}
_SETTINGS = ["config.json", "preprocessor_config.json"]
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Model:
    """What the hub says of a model.

    Attributes:
        source: its id.
        revision: the newest commit.
        sizes: bytes of each file.
        licence: as its card says, if it does.
    """

    source: str
    revision: str
    sizes: dict[str, int]
    licence: str | None


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="NAME|HUB_ID",
        help=f"one of {', '.join(specs())}, or an id such as microsoft/wavlm-large",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="FOLDER",
        help="the cache (default: HF_HOME, or ~/.cache/huggingface)",
    )
    return parser.parse_args(argv)


def specs() -> dict[str, dict[str, Any]]:
    """Return the encoders of config/encoder/ that come from the hub, by name."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIG_DIR.glob("*.yaml")}
    return {name: found[name] for name in sorted(found) if "source" in found[name]}


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch, check, and say how to use them."""
    arguments = parse_arguments(argv)
    if arguments.dir is not None:  # before huggingface_hub reads them
        os.environ["HF_HOME"] = str(arguments.dir.absolute())
        os.environ.pop("HF_HUB_CACHE", None)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants

    problems, fetched = [], []
    for name in dict.fromkeys(arguments.models):
        try:
            with hub_errors(name):
                fetched.append(fetch(name))
        except UserError as error:
            problems.append(str(error))
    if fetched:
        print("\non machines without a network:")
        print(f"  export HF_HOME={shlex.quote(str(Path(constants.HF_HOME).absolute()))}", end="")
        print(" HF_HUB_OFFLINE=1")
        folders = [folder for folder in fetched if folder is not None]
        for folder in folders:
            print(f"  or: model.encoder.source={shlex.quote(str(folder.absolute()))}")
    report(problems)
    return 0


def fetch(name: str) -> Path | None:
    """Fetch and check one model; return the folder of a tower that was fetched alone."""
    from huggingface_hub import snapshot_download

    from open_miipher.encoders.fetching import WEIGHTS, NoRanges, fetch_tower
    from open_miipher.encoders.licences import LICENCES

    spec = specs().get(name)
    source = spec["source"] if spec is not None else name
    print(f"{source}:", flush=True)
    model = look_up(source)
    licence = LICENCES.get(source) or model.licence
    print(f"  licence: {licence or 'not stated; see its page on the hub'}")
    spec = spec or spec_of(source)
    folder = None
    if spec["name"] not in ("transformers", "encodec"):
        files = tower_files(model)
        try:
            folder = fetch_tower(source, model.revision, files, lambda text: print(f"  {text}"))
        except NoRanges:
            print("  the hub sends whole files only: fetching those that hold the audio tower")
    else:
        files = weight_files(model)
    if folder is None:
        wanted = [file for file in (*_SETTINGS, _INDEX, *files) if file in model.sizes]
        check_room(model, wanted)
        print(f"  {sum(model.sizes[file] for file in wanted) / 1e6:,.0f} MB", flush=True)
        snapshot_download(source, allow_patterns=wanted)
    else:
        check_tensors(folder / WEIGHTS)
    check(spec)
    return folder


def look_up(source: str) -> Model:
    """Ask the hub for a model's files, and whether they may be had."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(source, files_metadata=True)
    hf_hub_download(source, "config.json")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    card = info.card_data
    return Model(source, info.sha or "main", sizes, card.get("license") if card else None)


def spec_of(source: str) -> dict[str, Any]:
    """Describe a model by what its config.json says it is, an encoder at up to 8 layers."""
    from open_miipher.encoders.pretrained import read_json

    config = read_json(source, "config.json")
    kind = config.get("model_type")
    if kind not in _CLASSES:
        raise UserError(
            f"{source} is of type {kind}; encoders can be made of {', '.join(_CLASSES)}"
        )
    name = _CLASSES[kind]
    if name == "encodec":
        return {"name": name, "source": source}
    parts = config.get("audio_config") or config
    depth = parts.get("num_hidden_layers") or parts.get("conf_num_hidden_layers") or 1
    default = 8 if name == "transformers" else 6
    return {"name": name, "source": source, _DEPTH_KEYS[name]: min(default, depth)}


def tower_files(model: Model) -> list[str]:
    """Return the safetensors files that may hold the audio tower."""
    from open_miipher.encoders.fetching import TOWER, WEIGHTS
    from open_miipher.encoders.pretrained import read_json

    if _INDEX not in model.sizes:
        return require(model, [WEIGHTS])
    places = read_json(model.source, _INDEX)["weight_map"]
    files = {file for tensor, file in places.items() if TOWER in tensor} or set(places.values())
    return require(model, sorted(files))


def weight_files(model: Model) -> list[str]:
    """Return the files with a whole model's weights, safetensors if there are any."""
    found = [f for f in model.sizes if f.startswith("model") and f.endswith(".safetensors")]
    return found or require(model, ["pytorch_model.bin"])


def require(model: Model, files: list[str]) -> list[str]:
    """Return the files; all of them must be there."""
    missing = [file for file in files if file not in model.sizes]
    if missing:
        raise UserError(f"{model.source} has no {', '.join(missing)}")
    return files


def check_room(model: Model, files: list[str]) -> None:
    """See that the files fit on the disk of the cache, in full."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(existing_parent(place)).free
    needed = sum(model.sizes[file] for file in files)
    if needed > free:
        raise UserError(
            f"{place} has {free / 1e6:,.0f} MB free and {needed / 1e6:,.0f} MB are to come for "
            f"{model.source}; make room, or name another folder by --dir"
        )


def check_tensors(path: Path) -> None:
    """See that all tensors of a file, also of layers that are not used yet, are numbers."""
    from safetensors.torch import load_file

    broken = [name for name, tensor in load_file(path).items() if not is_sound(tensor)]
    if broken:
        raise UserError(f"{path} holds NaN or Inf in {broken[0]}; remove it and fetch again")


def is_sound(tensor: Any) -> bool:
    """Whether all values are finite; a single value may be a bound, and that infinite."""
    return not tensor.isnan().any() and bool(tensor.numel() == 1 or tensor.isfinite().all())


def check(spec: dict[str, Any]) -> None:
    """Load the model as a machine without a network would, and see that it works."""
    import torch
    from huggingface_hub import constants

    from open_miipher.base.registry import build
    from open_miipher.encoders import ENCODERS

    online, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        if spec["name"] == "encodec":
            check_codec(spec["source"])
            return
        encoder = build(ENCODERS, spec)
    finally:
        constants.HF_HUB_OFFLINE = online
    second = torch.randn(1, encoder.sample_rate, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, _ = encoder(0.1 * second, torch.tensor([second.shape[1]]))
    tensors = [*encoder.state_dict().values(), features]
    if not all(map(is_sound, tensors)):
        raise UserError(f"{spec['source']} holds NaN or Inf; remove it from the cache, fetch again")
    print(
        f"  checked: {len(encoder.layers)} layers load offline, {encoder.width} wide, "
        f"{encoder.frame_rate:g} Hz, all finite; fingerprint {encoder.fingerprint()[:16]}",
        flush=True,
    )


def check_codec(source: str) -> None:
    """Load a codec, and hear that it works."""
    import torch

    from open_miipher.codec import AudioTokenizer

    codec = AudioTokenizer("cpu", source)
    second = 0.1 * torch.randn(1, codec.sample_rate, generator=torch.Generator().manual_seed(0))
    (tokens,) = codec.encode(second, torch.tensor([second.shape[1]]))
    if not is_sound(codec.decode([tokens])[0]):
        raise UserError(f"{source} holds NaN or Inf; remove it from the cache, fetch again")
    print(
        f"  checked: loads offline, {codec.frame_rate:g} frames a second of {codec.codebooks} "
        f"tokens at {codec.bandwidth:g} kb/s; fingerprint {codec.fingerprint}",
        flush=True,
    )


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub and the disk complain of into one sentence."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: accept its licence on its page at {constants.ENDPOINT}, and give "
            "your token in HF_TOKEN, or in a file named by HF_TOKEN_PATH"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name} is no model at {constants.ENDPOINT} (or a private one that HF_TOKEN does not "
            f"open); known names: {', '.join(specs())}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(f"{name} has no config.json: it is no model of transformers") from error
    except errors.HFValidationError as error:
        raise UserError(f"{name} is neither a hub id nor one of {', '.join(specs())}") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be fetched; unset it") from error
    except (errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk of {constants.HF_HOME} is full; make room, or name another folder by "
                "--dir; what has come is kept"
            ) from error
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name} cannot be had from {constants.ENDPOINT} ({reason}); is there a network here, "
            "or a proxy to name in HTTPS_PROXY? What has come is kept"
        ) from error
