"""Adapters as peft's `save_pretrained` writes them: a settings file and a file of weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from open_miipher.base.errors import UserError, notice, report

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings with which an adapter computes something else than B A x.
_PLAIN = ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the adapters' settings.

    Returns:
        The fields of `LoraConfig`, and `name`.

    Raises:
        UserError: the file is missing, or describes something else than plain LoRA.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        target = settings["target_modules"]
        spec = {
            "name": "lora",
            "rank": settings["r"],
            "alpha": float(settings["lora_alpha"]),
            "dropout": float(settings["lora_dropout"]),
            "target": target if isinstance(target, str) else " ".join(target),
            "bias": settings["bias"] == "lora_only",
        }
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no settings file of peft's LoRA: {error!r}") from error
    others = [f"{name}={settings[name]!r}" for name in _PLAIN if settings.get(name)]
    if settings.get("peft_type") != "LORA" or settings["bias"] not in ("none", "lora_only"):
        others += [f"peft_type={settings.get('peft_type')!r}, bias={settings['bias']!r}"]
    if others:
        raise UserError(f"{path} has {', '.join(others)}; only plain LoRA can be imported")
    return spec


def read_weights(folder: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the adapters' weights.

    If the file has no biases at all, the encoder's own are taken, with a warning.

    Args:
        folder: contains the file.
        own: the weights of a fresh cleaner with the same settings.

    Raises:
        UserError: it names each weight that is missing, unknown or of another shape.
    """
    path = folder / WEIGHTS
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    biases = {name: tensor for name, tensor in own.items() if name.endswith(".bias")}
    if biases and biases.keys().isdisjoint(state):
        notice(f"{path} holds no biases; the encoder's own are taken")
        state |= biases
    report(
        [f"{path} lacks {name}" for name in sorted(own.keys() - state)]
        + [f"{path} holds {name}, which the cleaner lacks" for name in sorted(state.keys() - own)]
        + [
            f"{path}: {name} has shape {tuple(state[name].shape)}, but {tuple(own[name].shape)} "
            "is needed"
            for name in sorted(own.keys() & state)
            if state[name].shape != own[name].shape
        ]
    )
    return state
