"""From the configuration to a chain of stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build, from_mapping
from open_miipher.degradation.band import BandLimit, LowPass
from open_miipher.degradation.base import Context, Stage
from open_miipher.degradation.clipping import HardClipping, QuantileClipping, SoftClipping
from open_miipher.degradation.codecs import ALaw, Mp3, Mp3Vbr, MuLaw, Opus, Vorbis
from open_miipher.degradation.combine import Chain, Choice, Maybe
from open_miipher.degradation.noise import BackgroundNoise
from open_miipher.degradation.packet_loss import PacketLoss
from open_miipher.degradation.recording import (
    Crackle,
    Equaliser,
    Hum,
    LevelChanges,
    NoiseAlone,
    SpectralHoles,
)
from open_miipher.degradation.reverb import Reverb

STAGES: dict[str, type[Stage]] = {
    "noise": BackgroundNoise,
    "reverb": Reverb,
    "soft_clipping": SoftClipping,
    "hard_clipping": HardClipping,
    "quantile_clipping": QuantileClipping,
    "low_pass": LowPass,
    "band_limit": BandLimit,
    "mp3": Mp3,
    "mp3_vbr": Mp3Vbr,
    "vorbis": Vorbis,
    "opus": Opus,
    "a_law": ALaw,
    "mu_law": MuLaw,
    "packet_loss": PacketLoss,
    "equaliser": Equaliser,
    "spectral_holes": SpectralHoles,
    "level_changes": LevelChanges,
    "hum": Hum,
    "crackle": Crackle,
    "noise_alone": NoiseAlone,
}


@dataclass
class DegradationConfig:
    """The chain that damages a clean crop.

    Attributes:
        stages: label to stage, applied in this order. A stage is its registry `name`, its fields,
            and the `probability` (1 if left out) with which it takes part. Besides the registered
            ones, `chain` and `choice` have `stages` of their own; one of a choice's is taken,
            each with its `weight` (1 if left out).
        max_stages: how many of them take part in one sample at most; None for all.
    """

    stages: dict[str, Any] = field(default_factory=dict)
    max_stages: int | None = 3


def build_degradation(config: DegradationConfig, context: Context, key: str = "") -> Chain:
    """Build the chain.

    Args:
        config: what it consists of.
        context: sample rate and recordings.
        key: where `config` stands in the configuration, for messages.

    Raises:
        UserError: naming the key that is unknown or out of range.
    """
    if config.max_stages is not None and config.max_stages < 0:
        raise UserError(f"{key}.max_stages={config.max_stages} must not be negative")
    return Chain(_build_all(config.stages, context, f"{key}.stages"), config.max_stages)


@dataclass
class _Group:
    """Fields of `chain` and `choice`."""

    stages: dict[str, Any]


def _build_all(specs: Mapping[str, Any], context: Context, key: str) -> list[Stage]:
    return [_build(spec, context, f"{key}.{label}") for label, spec in specs.items()]


def _build(spec: Any, context: Context, key: str) -> Stage:
    probability = _number(spec, "probability", key)
    if probability > 1:
        raise UserError(f"{key}.probability={probability} must not be above 1")
    fields = {name: value for name, value in spec.items() if name != "probability"}
    return Maybe(_build_certain(fields, context, key), probability)


def _build_certain(fields: dict[str, Any], context: Context, key: str) -> Stage:
    if fields.get("name") not in ("chain", "choice"):
        return build(STAGES, fields, context, key=key)
    name = fields.pop("name")
    group = from_mapping(_Group, fields, key)
    key = f"{key}.stages"
    if not group.stages:
        raise UserError(f"{key} is empty")
    if name == "chain":
        return Chain(_build_all(group.stages, context, key))
    weights = [_number(spec, "weight", f"{key}.{label}") for label, spec in group.stages.items()]
    if not any(weights):
        raise UserError(f"{key}: one weight must be above 0")
    unweighted = {
        label: {name: value for name, value in spec.items() if name != "weight"}
        for label, spec in group.stages.items()
    }
    return Choice(_build_all(unweighted, context, key), weights)


def _number(spec: Any, name: str, key: str) -> float:
    """Read a number of a stage, not negative; 1 if it is left out."""
    if not isinstance(spec, Mapping):
        raise UserError(f"{key}={spec!r} must be a stage: a name and its fields")
    value = spec.get(name, 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UserError(f"{key}.{name}={value!r} must be a number, not negative")
    return float(value)
