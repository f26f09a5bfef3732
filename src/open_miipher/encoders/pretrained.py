"""Read only the needed files and tensors of a pretrained model: a local folder or the hub."""

import contextlib
import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import Tensor, nn

from open_miipher.base.errors import UserError, report
from open_miipher.encoders.fetching import TOWER, WEIGHTS, tower_folder

_CONNECT_SECONDS = 5.0


def find_file(source: str, *names: str, what: str = "encoder") -> Path:
    """Find a file of a pretrained model; the hub is asked only if `source` is no local folder.

    Args:
        source: a local folder, or a hub id such as `microsoft/wavlm-large`. If only the tower of a
            multimodal model was fetched (see `fetching`), that is used.
        *names: file names, in order of preference.
        what: the model is, for messages.

    Returns:
        The path of the first file that exists; it is downloaded if necessary.

    Raises:
        UserError: no such file exists; the message says how to fetch it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    folder = Path(source).expanduser()
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise UserError(f"{what} source {source} holds no {' or '.join(names)}")
    tower = tower_folder(source)
    for name in names:
        if (tower / WEIGHTS).is_file() and (tower / name).is_file():
            return tower / name
    reason, only_cache = "", not hub_answers()
    for name in names:
        try:
            return Path(hf_hub_download(source, name, local_files_only=only_cache))
        except (OSError, EntryNotFoundError, HFValidationError) as error:
            reason = str(error).strip().partition("\n")[0]
    raise UserError(
        f"{what} source {source} is no folder here, and its {' or '.join(names)} could not be "
        f"read from the hub or its cache ({reason}); {how_to_fetch(source)}"
    )


def hub_answers() -> bool:
    """Whether the hub may be asked, and takes a connection; of a proxy it cannot be told.

    The hub's own library would try again for half a minute where there is no network.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies().keys() - {"no"}:  # NO_PROXY alone names none
        return True
    place = urlsplit(constants.ENDPOINT)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def how_to_fetch(source: str) -> str:
    """Return the advice how to get a hub model to a machine without a network."""
    return (
        f"run `python src/fetch_models.py {source}` (or `hf download {source}`) where there is a "
        "network, with HF_HOME on a disk that this machine sees, or give a local folder; a gated "
        "model needs its licence accepted and HF_TOKEN"
    )


def read_json(source: str, name: str, what: str = "encoder") -> dict[str, Any]:
    """Read a JSON file of a pretrained model.

    Raises:
        UserError: it is missing or not a JSON object.
    """
    path = find_file(source, name, what=what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content


def load_part(part: nn.Module, source: str) -> None:
    """Load the weights of a part of a checkpointed model, reading only that part's tensors.

    In the checkpoint, the part's names may have any common prefix (`model.audio_tower.` in a whole
    multimodal checkpoint, none in a copy of the tower). If a checkpoint has several files, those
    without needed tensors are neither downloaded nor opened. Weights become float32.

    Args:
        part: has as many layers as are needed, with the names and shapes of the checkpoint.
        source: a local folder or a hub id, with safetensors files.

    Raises:
        UserError: it names each tensor that is missing or of another shape.
    """
    from safetensors import SafetensorError, safe_open

    shapes = {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    try:
        files = _files_of_tensors(source)
        prefix = _common_prefix(source, list(files), next(iter(shapes)))
        report(
            [
                f"encoder source {source} lacks the tensor {prefix + name}"
                for name in shapes
                if prefix + name not in files
            ]
        )
        names_in = defaultdict(list)
        for name in shapes:
            names_in[files[prefix + name]].append(name)
        tensors = {}
        for file, names in names_in.items():
            with safe_open(find_file(source, file), "pt") as reader:
                tensors.update({name: reader.get_tensor(prefix + name) for name in names})
    except SafetensorError as error:
        raise UserError(f"encoder source {source} has a damaged file: {error}") from error
    report(
        [
            f"encoder source {source}: {prefix + name} has shape {tuple(tensors[name].shape)}, "
            f"but the model needs {shape}"
            for name, shape in shapes.items()
            if tuple(tensors[name].shape) != shape
        ]
    )
    part.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)


def own_files(source: str) -> dict[str, bytes | dict[str, Tensor]]:
    """Read all that loading an encoder from its source needs, to write it elsewhere.

    Of a multimodal checkpoint, only the audio tower is read.

    Returns:
        content, or tensors, by file name.

    Raises:
        UserError: the source cannot be read, or is no safetensors.
    """
    from safetensors import safe_open

    found: dict[str, bytes | dict[str, Tensor]] = {
        "config.json": find_file(source, "config.json").read_bytes()
    }
    with contextlib.suppress(UserError):  # Gemma's towers have none, and need none
        name = "preprocessor_config.json"
        found[name] = find_file(source, name).read_bytes()
    files = _files_of_tensors(source)
    tower = {name: file for name, file in files.items() if TOWER in name}
    tensors = {}
    for file in sorted(set((tower or files).values())):
        with safe_open(find_file(source, file), "pt") as reader:
            kept = [name for name in reader.keys() if name in (tower or files)]  # noqa: SIM118
            tensors.update({name: reader.get_tensor(name) for name in kept})
    return {**found, WEIGHTS: tensors}


def _files_of_tensors(source: str) -> dict[str, str]:
    """Map each tensor of a checkpoint to the name of the file that contains it."""
    from safetensors import safe_open

    index, single = "model.safetensors.index.json", WEIGHTS
    found = find_file(source, index, single)
    if found.name == index:
        return read_json(source, index)["weight_map"]
    with safe_open(found, "pt") as reader:
        return dict.fromkeys(reader.keys(), single)


def _common_prefix(source: str, names: list[str], anchor: str) -> str:
    """Return the common prefix of the part's names, found by a name that no other part has."""
    found = [name for name in names if name == anchor or name.endswith(f".{anchor}")]
    if len(found) != 1:
        raise UserError(
            f"encoder source {source} has {len(found)} tensors named {anchor}; one is needed"
        )
    return found[0].removesuffix(anchor)
