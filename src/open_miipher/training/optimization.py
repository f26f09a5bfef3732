"""Optimisers, and learning rates as pure functions of the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from open_miipher.base.errors import report
from open_miipher.recipes import ParameterGroup

# One kernel for all weights, and the only AdamW that leaves out a step on the word of the device.
_FUSED: dict[str, Any] = {"fused": True, "foreach": None}


@dataclass
class OptimizerConfig:
    """AdamW and its schedule.

    Attributes:
        lr: the learning rate at its highest.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: of the parameter groups that decay (see `Recipe.parameter_groups`).
        warmup_steps: steps in which the learning rate rises linearly from 0.
        schedule: `cosine` or `exponential` from `lr` to `final_lr`, or `constant`; or
            `cosine_restarts`, whose cosine starts again each time it has ended, over twice as many
            steps (SGDR, Loshchilov and Hutter 2017, with a factor of 2).
        schedule_steps: the step at which the (first) fall ends. It does not depend on
            `trainer.max_steps`, so that training N and then M steps equals training N + M.
        final_lr: the learning rate from `schedule_steps` on. An exponential decay by a factor g per
            step ends at lr · g^schedule_steps.
    """

    lr: float
    schedule_steps: int
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-3
    warmup_steps: int = 2000
    schedule: Literal["cosine", "cosine_restarts", "exponential", "constant"] = "cosine"
    final_lr: float = 1e-5

    def scaled(self, factor: float) -> "OptimizerConfig":
        """Return the same with rates times a factor; with a factor of 1, itself."""
        if factor == 1.0:
            return self
        return replace(self, lr=self.lr * factor, final_lr=self.final_lr * factor)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range; the message lists all of them.
        """
        rules = {
            f"lr={self.lr} must be above 0": self.lr > 0,
            f"final_lr={self.final_lr} must not be negative": self.final_lr >= 0,
            f"eps={self.eps} must be above 0": self.eps > 0,
            f"weight_decay={self.weight_decay} must not be negative": self.weight_decay >= 0,
            f"betas={list(self.betas)} must lie in [0, 1)": all(0 <= b < 1 for b in self.betas),
            f"warmup_steps={self.warmup_steps} must not be negative": self.warmup_steps >= 0,
            f"schedule_steps={self.schedule_steps} must be above 0": self.schedule_steps > 0,
            "final_lr=0 cannot be reached by an exponential decay; give a number above 0": (
                self.schedule != "exponential" or self.final_lr > 0
            ),
        }
        report([f"an optimizer's {rule}" for rule, kept in rules.items() if not kept])


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.lr * warmup
    start, end, length = config.warmup_steps, config.schedule_steps, config.schedule_steps
    while config.schedule == "cosine_restarts" and step >= end:
        length *= 2
        start, end = end, end + length
    progress = min(1.0, max(0.0, (step - start) / max(1, end - start)))
    if config.schedule == "exponential":
        return config.lr * (config.final_lr / config.lr) ** progress * warmup
    share = 0.5 * (1.0 + math.cos(math.pi * progress))
    return (config.final_lr + (config.lr - config.final_lr) * share) * warmup


def build_optimizer(groups: Sequence[ParameterGroup], config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW over a network's parameter groups."""
    own = [{"params": group.parameters} for group in groups]
    optimizer = torch.optim.AdamW(own, lr=config.lr, **_FUSED)
    apply_config(optimizer, groups, config)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, which is changed; it stays fused whatever the saved one was."""
    for group in state["param_groups"]:
        group.update(_FUSED)
    optimizer.load_state_dict(state)


def apply_config(
    optimizer: torch.optim.Optimizer, groups: Sequence[ParameterGroup], config: OptimizerConfig
) -> None:
    """Set an optimiser's values from the configuration; they replace those of a checkpoint."""
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        own.update(
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay if group.decays else 0.0,
            lr_scale=group.lr_scale,
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use this learning rate, times each group's scale, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
