"""The parts that stages hand on: built from plain data, or taken from an earlier checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from open_miipher.audio.resample import resample_on_device
from open_miipher.base.errors import UserError, report
from open_miipher.base.registry import build
from open_miipher.checkpoint import Checkpoint
from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.vocoders import VOCODERS, Vocoder

PARTS = ("encoder", "cleaner", "vocoder", "discriminators")
# Stages may differ in these: where the encoder lies (its weights are compared when they are loaded)
# and what only trades time for memory.
_FREE = (".source", ".gradient_checkpointing")


def fill_parts(model: Mapping[str, Any], sources: Sequence[Checkpoint]) -> dict[str, Any]:
    """Fill the parts that the configuration leaves empty from checkpoints.

    Single keys of such a part (`+model.encoder.source=…`) win over the checkpoint's.

    Args:
        model: the `model` part of the configuration.
        sources: checkpoints to take from; the first that has the part gives it.

    Returns:
        A copy of `model` with every part that the recipe names filled.

    Raises:
        UserError: a checkpoint's part differs from the configured one, or nobody has it.
    """
    filled = dict(model)
    problems = []
    for part in (p for p in PARTS if p in model):
        offers = [(c, c.config["model"][part]) for c in sources if c.config["model"].get(part)]
        if is_open(part, model[part]) and not offers:
            problems.append(
                f"model.{part} is empty and no earlier stage gives it; set "
                "model.cleaner_ckpt_dir=… or model.vocoder_ckpt_dir=…"
            )
            continue
        if is_open(part, model[part]):
            filled[part] = overlaid(offers[0][1], model[part])
        for checkpoint, spec in offers:
            different = differing_keys(filled[part], spec, f"model.{part}")
            different = [key for key in different if not key.endswith(_FREE)]
            if different:
                problems.append(
                    f"{', '.join(different)} differ from the ones in {checkpoint.path}; "
                    "use stages trained with the same parts"
                )
    report(problems)
    return filled


def is_open(part: str, spec: Mapping[str, Any]) -> bool:
    """Whether the configuration leaves a part, but for single keys, to earlier stages."""
    return not spec if part == "discriminators" else "name" not in spec


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data with the leaves of `over` laid over those of `base`."""
    laid = {
        key: overlaid(base[key], value)
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        else value
        for key, value in over.items()
    }
    return {**base, **laid}


def differing_keys(a: Any, b: Any, key: str = "") -> list[str]:
    """Return the dotted names of the leaves in which two pieces of plain data differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        names = list(dict.fromkeys([*a, *b]))
        missing = object()
        nested = (
            differing_keys(a.get(n, missing), b.get(n, missing), f"{key}.{n}" if key else str(n))
            for n in names
        )
        return [leaf for leaves in nested for leaf in leaves]
    same = list(a) == list(b) if isinstance(a, list | tuple) and isinstance(b, list) else a == b
    return [] if same else [key]


def build_encoder(spec: Mapping[str, Any]) -> Encoder:
    """Build the frozen encoder that `model.encoder` names."""
    return build(ENCODERS, spec, key="model.encoder")


def build_cleaner(spec: Mapping[str, Any], encoder: Encoder) -> Cleaner:
    """Build the cleaner that `model.cleaner` names on its encoder."""
    return build(CLEANERS, spec, encoder, key="model.cleaner")


def build_vocoder(spec: Mapping[str, Any], encoder: Encoder, sample_rate: int) -> Vocoder:
    """Build the vocoder that `model.vocoder` names, for an encoder's features.

    Raises:
        UserError: it does not fit the features or the data's sample rate.
    """
    vocoder = build(VOCODERS, spec, encoder.width, encoder.frame_rate, key="model.vocoder")
    if vocoder.sample_rate != sample_rate:
        raise UserError(
            f"the vocoder makes {vocoder.sample_rate} Hz but data.sample_rate={sample_rate}; "
            "make them equal"
        )
    if encoder.carries_level != vocoder.restores_level:
        raise UserError(
            "model.vocoder does not fit model.encoder: log-mel features carry the level and need a "
            "wavefit with gain=power; others need gain=peak, or the dac vocoder"
        )
    return vocoder


def at_rate(
    waveform: Tensor, lengths: Tensor, rate_in: int, rate_out: int
) -> tuple[Tensor, Tensor]:
    """Resample a padded batch on its device.

    Args:
        waveform: (batch, samples) at `rate_in`.
        lengths: (batch,) true samples.
        rate_in: Hz.
        rate_out: Hz.

    Returns:
        The waveforms, ⌈samples · rate_out / rate_in⌉ long, and their lengths by the same rule.
    """
    return resample_on_device(waveform, rate_in, rate_out), -(-lengths * rate_out // rate_in)
