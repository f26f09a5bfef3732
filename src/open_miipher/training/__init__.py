"""The trainer: the loop, the state it saves, schedules, averages and logs."""

from open_miipher.training.config import AUTO, EmaConfig, LoggerConfig, Run, TrainerConfig
from open_miipher.training.optimization import OptimizerConfig
from open_miipher.training.setup import prepare
from open_miipher.training.trainer import Trainer

__all__ = [
    "AUTO",
    "EmaConfig",
    "LoggerConfig",
    "OptimizerConfig",
    "Run",
    "Trainer",
    "TrainerConfig",
    "prepare",
]
