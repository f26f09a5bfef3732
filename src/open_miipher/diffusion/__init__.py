"""Diffusion: noise schedules and samplers over a backbone, chosen by its name in `BACKBONES`."""

from open_miipher.base.registry import Registry
from open_miipher.diffusion.backbone import Backbone, BackboneConfig, check_hop
from open_miipher.diffusion.condition import MelCondition
from open_miipher.diffusion.sampling import descend, sample
from open_miipher.diffusion.sashimi import SaShiMi
from open_miipher.diffusion.schedule import FAST_LEVELS, Descent, NoiseSchedule, ScheduleConfig
from open_miipher.diffusion.wavenet import WaveNet

BACKBONES = Registry[Backbone]("backbone", {"wavenet": WaveNet, "sashimi": SaShiMi})

__all__ = [
    "BACKBONES",
    "FAST_LEVELS",
    "Backbone",
    "BackboneConfig",
    "Descent",
    "MelCondition",
    "NoiseSchedule",
    "ScheduleConfig",
    "check_hop",
    "descend",
    "sample",
]
