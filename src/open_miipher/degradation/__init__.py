"""Damages clean speech: pure, composable stages that draw from one explicit generator."""

from open_miipher.degradation.base import Context, NoiseSource, ResponseSource, Stage, Trace
from open_miipher.degradation.building import STAGES, DegradationConfig, build_degradation
from open_miipher.degradation.combine import Chain, Choice, Maybe

__all__ = [
    "STAGES",
    "Chain",
    "Choice",
    "Context",
    "DegradationConfig",
    "Maybe",
    "NoiseSource",
    "ResponseSource",
    "Stage",
    "Trace",
    "build_degradation",
]
