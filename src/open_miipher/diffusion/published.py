"""Translate WaveNet's weights from the names in the public DiffWave code to ours."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_miipher.base.errors import UserError, report

_BLOCK = re.compile(r"residual_layer\.residual_blocks\.(\d+)\.")
# Weight norm's magnitude and direction: torch's older names, and its newer ones.
_NORMED = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "bias": "bias",
}
_PLAIN = {"weight": "weight", "bias": "bias"}
_CYCLES = {30: 10, 36: 12}
"""Of the published models: layers until the dilation is 1 again, by the number of layers."""


def from_public(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Any], dict]:
    """Turn the weights of an unconditional WaveNet of the public code into ours.

    That code embeds the step with 10^(−4 i / 63) where the paper has 10^(4 i / 63), which the
    sizes tell (`diffusion_step_embed_exponent`). The residual output of the last layer is left out.

    Args:
        state: the published weights.
        source: where they come from, for messages.

    Returns:
        The fields of `WaveNetConfig`, and the weights of a `WaveNet`.

    Raises:
        UserError: they are of another model, or it names each weight that is missing or unknown.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith(("d_layers.", "c_layers.")) for name in state):
        raise UserError(
            f"{source} is a SaShiMi: the published ones rest on an S4 before its second version, "
            "and cannot be read; train model=sashimi"
        )
    if any(".mel_conv." in name for name in state):
        raise UserError(
            f"{source} is a vocoder, which hears the mels of another program: train "
            "model=diffwave_vocoder_64 or _128 with experiment=ljspeech"
        )
    blocks = {int(match[1]) for name in state if (match := _BLOCK.match(name))}
    if not blocks:
        raise UserError(
            f"{source} holds no WaveNet of the public DiffWave code: it has no "
            "residual_layer.residual_blocks.*"
        )
    num_layers = max(blocks) + 1
    if num_layers not in _CYCLES:
        raise UserError(
            f"{source} has {num_layers} layers; the published models have "
            f"{' or '.join(map(str, _CYCLES))}, and no other one's dilations are known"
        )
    names = _names(num_layers)
    missing, unknown = sorted(names.keys() - state), sorted(state.keys() - names)
    report(
        [f"{source} lacks {name}" for name in missing]
        + [f"{source} has {name}, which no WaveNet has" for name in unknown]
    )
    channels, in_channels, _ = state["init_conv.0.conv.weight_v"].shape
    skip_channels = len(state["final_conv.0.conv.weight_v"])
    mid, embedded = state["residual_layer.fc_t1.weight"].shape
    sizes = {
        "in_channels": in_channels,
        "out_channels": len(state["final_conv.2.conv.weight"]),
        "diffusion_step_embed_dim_in": embedded,
        "diffusion_step_embed_dim_mid": mid,
        "diffusion_step_embed_dim_out": len(state["residual_layer.fc_t2.weight"]),
        "diffusion_step_embed_exponent": -4.0,
        "res_channels": channels,
        "skip_channels": skip_channels,
        "num_res_layers": num_layers,
        "dilation_cycle": _CYCLES[num_layers],
    }
    return sizes, {ours: state[name] for name, ours in names.items() if ours is not None}


def _names(num_layers: int) -> dict[str, str | None]:
    """Map every public name to ours; to None where nothing hears what it is for."""
    modules = {
        "init_conv.0.conv": ("first.layer", _NORMED),
        "residual_layer.fc_t1": ("step_embedding.layers.0", _PLAIN),
        "residual_layer.fc_t2": ("step_embedding.layers.2", _PLAIN),
        "final_conv.0.conv": ("last.hidden", _NORMED),
        "final_conv.2.conv": ("last.out", _PLAIN),
    }
    for n in range(num_layers):
        block = f"residual_layer.residual_blocks.{n}"
        modules |= {
            f"{block}.fc_t": (f"layers.{n}.step", _PLAIN),
            f"{block}.dilated_conv_layer.conv": (f"layers.{n}.dilated", _NORMED),
            f"{block}.res_conv": (f"layers.{n}.residual", _NORMED),
            f"{block}.skip_conv": (f"layers.{n}.skip", _NORMED),
        }
    unused = f"layers.{num_layers - 1}.residual"
    return {
        f"{public}.{theirs}": None if ours == unused else f"{ours}.{own}"
        for public, (ours, parts) in modules.items()
        for theirs, own in parts.items()
    }
