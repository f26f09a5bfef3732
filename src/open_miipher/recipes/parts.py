"""Parts that a stage takes from the checkpoints of earlier stages, and checks that parts fit."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from open_miipher.audio.resample import resample_on_device
from open_miipher.base.errors import UserError, report
from open_miipher.base.plain import differing_keys, overlaid
from open_miipher.checkpoint import Checkpoint
from open_miipher.data.source import AudioSource
from open_miipher.encoders import Encoder
from open_miipher.recipes.recipe import Recipe
from open_miipher.vocoders import Vocoder

# Keys that may differ between stages: the path of the encoder (its weights are compared when they
# are loaded), and what only trades time for memory.
_MAY_DIFFER = (".source", ".gradient_checkpointing")
_SHORTEST_CROP_SECONDS = 3.0


def fill_parts(
    recipe: type[Recipe[Any]], model: Mapping[str, Any], sources: Sequence[Checkpoint]
) -> dict[str, Any]:
    """Fill in the parts that the configuration leaves empty, from checkpoints of earlier stages.

    Single keys given for such a part (`+model.encoder.source=…`) replace those of the checkpoint.

    Args:
        recipe: has the parts.
        model: the `model` part of the configuration.
        sources: checkpoints to take from; a part comes from the first one that has it.

    Returns:
        A copy of `model` with every part that it names filled in.

    Raises:
        UserError: a checkpoint's part differs from the configured one, or no checkpoint has it.
    """
    filled = dict(model)
    problems = []
    for part in (p for p in recipe.parts if p in model):
        offers = [(c, c.config["model"][part]) for c in sources if c.config["model"].get(part)]
        if not recipe.is_given(part, model[part]):
            if not offers:
                keys = " or ".join(f"model.{key}=…" for key in recipe.takes)
                where = f"set {keys}" if keys else "give it a name"
                problems.append(f"model.{part} is empty and no earlier stage has it; {where}")
                continue
            filled[part] = overlaid(offers[0][1], model[part])
        for checkpoint, spec in offers:
            different = differing_keys(filled[part], spec, f"model.{part}")
            different = [key for key in different if not key.endswith(_MAY_DIFFER)]
            if different:
                problems.append(
                    f"{', '.join(different)} differ from the ones in {checkpoint.path}; "
                    "use stages trained with the same parts"
                )
    report(problems)
    return filled


def check_fit(vocoder: Vocoder, encoder: Encoder, sample_rate: int) -> None:
    """Check that a vocoder fits an encoder's features and the data's sample rate (Hz).

    Raises:
        UserError: it does not.
    """
    if vocoder.sample_rate != sample_rate:
        raise UserError(
            f"the vocoder makes {vocoder.sample_rate} Hz but data.sample_rate={sample_rate}; "
            "make them equal"
        )
    if encoder.carries_level != vocoder.restores_level:
        raise UserError(
            "model.vocoder does not fit model.encoder: log-mel features carry the level and need a "
            "wavefit or wavenext2 with gain=power, stft features need istft; others need "
            "gain=peak, or the dac vocoder"
        )
    if vocoder.mel is not None and encoder.mel is not None and vocoder.mel != encoder.mel:
        names = [field.name for field in fields(vocoder.mel)]
        differing = [
            f"{name} ({getattr(vocoder.mel, name)}, the features have {getattr(encoder.mel, name)})"
            for name in names
            if getattr(vocoder.mel, name) != getattr(encoder.mel, name)
        ]
        raise UserError(
            "model.vocoder.mel is not the front end of model.encoder: it differs in "
            f"{', '.join(differing)}; make them equal"
        )


def check_crops(encoder: Encoder, data: AudioSource) -> None:
    """Check that crops are long enough for an encoder that normalises by their own statistics.

    When restoring, the whole file's are taken. What w2v-BERT 2.0's front end gives for a crop by
    its own differs from what it gives by those of 30 s, on average over 30 crops of ten recordings,
    by 55 % of the norm for crops of 0.6 s, 38 % for 1 s, 31 % for 2 s, 23 % for 3 s, 21 % for 4 s,
    19 % for 6 s and 14 % for 10 s.

    Raises:
        UserError: they are shorter than 3 s.
    """
    if encoder.needs_statistics and data.crop_seconds < _SHORTEST_CROP_SECONDS:
        raise UserError(
            f"data.crop_seconds={data.crop_seconds:g} is too short for model.encoder, which "
            "normalises a crop by its own statistics: they are too far from those of the whole "
            f"file, which restoring takes; give at least {_SHORTEST_CROP_SECONDS:g}"
        )


def at_rate(
    waveform: Tensor, lengths: Tensor | None, rate_in: int, rate_out: int
) -> tuple[Tensor, Tensor | None]:
    """Resample a padded batch on its device.

    Args:
        waveform: (batch, samples) at `rate_in`.
        lengths: (batch,) samples before the padding; None: there is none.
        rate_in: in Hz.
        rate_out: in Hz.

    Returns:
        The waveforms, ⌈samples · rate_out / rate_in⌉ long, and their lengths by the same rule.
    """
    if lengths is not None:
        lengths = -(-lengths * rate_out // rate_in)
    return resample_on_device(waveform, rate_in, rate_out), lengths
