"""Translate the decoder's weights from the names in descript's own code to ours."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_miipher.base.errors import UserError, report

_BLOCK = re.compile(r"model\.(\d+)\.block\.")
# Weight norm's magnitude and direction: descript's names, and torch's newer ones.
_NORMED = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "bias": "bias",
}
_UNIT = ("snake1", "conv1", "snake2", "conv2")


def from_descript(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Any], dict]:
    """Turn a state dict of descript's `Decoder` into ours.

    Args:
        state: the decoder's weights, with weight norm.
        source: where they come from, for messages.

    Returns:
        The fields `channels` and `upsampling_rates` of `DacConfig`, and the weights of a `Dac`.

    Raises:
        UserError: it names each weight that is missing or unknown.
    """
    state = {_older(name): tensor for name, tensor in state.items()}
    blocks = [int(match[1]) for name in state if (match := _BLOCK.match(name))]
    if not blocks:
        raise UserError(f"{source} holds no decoder of descript's: it has no model.1.block.*")
    names = _names(max(blocks))
    missing, unknown = sorted(names.keys() - state), sorted(state.keys() - names)
    report(
        [f"{source} lacks {name}" for name in missing]
        + [f"{source} holds {name}, which the decoder does not have" for name in unknown]
    )
    kernels = (state[f"model.{n}.block.1.weight_v"] for n in range(1, max(blocks) + 1))
    fields = {
        "channels": state["model.0.weight_v"].shape[0],
        "upsampling_rates": [kernel.shape[-1] // 2 for kernel in kernels],  # kernels of 2 strides
    }
    return fields, {ours: state[theirs] for theirs, ours in names.items()}


def _names(num_blocks: int) -> dict[str, str]:
    """Map descript's names of a decoder's weights to ours."""
    modules = {"model.0": "conv1"}
    for number in range(num_blocks):
        theirs, ours = f"model.{number + 1}.block", f"block.{number}"
        modules |= {f"{theirs}.0": f"{ours}.snake1", f"{theirs}.1": f"{ours}.conv_t1"}
        modules |= {
            f"{theirs}.{unit + 2}.block.{place}": f"{ours}.res_unit{unit + 1}.{name}"
            for unit in range(3)
            for place, name in enumerate(_UNIT)
        }
    modules |= {f"model.{num_blocks + 1}": "snake1", f"model.{num_blocks + 2}": "conv2"}
    names = {}
    for theirs, ours in modules.items():
        if "snake" in ours:
            names[f"{theirs}.alpha"] = f"decoder.{ours}.alpha"
        else:
            names |= {f"{theirs}.{a}": f"decoder.{ours}.{b}" for a, b in _NORMED.items()}
    return names


def _older(name: str) -> str:
    for theirs, ours in _NORMED.items():
        name = name.replace(ours, theirs)
    return name
