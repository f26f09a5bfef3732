"""The state of a run: everything that a checkpoint saves and a resume restores."""

import contextlib
import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from open_miipher.audio.spectral import DEFINITION
from open_miipher.checkpoint import Checkpoint, Content, load_weights, weights_of
from open_miipher.recipes import Recipe
from open_miipher.training.ema import Ema
from open_miipher.training.optimization import (
    OptimizerConfig,
    apply_config,
    build_optimizer,
    load_optimizer,
)


@dataclass
class Position:
    """The place in the endless stream of samples.

    Attributes:
        num_items: number of items in the training data, which is the samples of an epoch.
        fingerprint: of the training data.
        consumed: samples since the start of epoch 0.
    """

    num_items: int
    fingerprint: str
    consumed: int = 0

    def restore(self, state: Mapping[str, Any]) -> str | None:
        """Continue at the position that a checkpoint holds.

        Returns:
            A notice for the user if the data changed: then a new epoch starts.
        """
        if state["data_fingerprint"] == self.fingerprint:
            self.consumed = state["epoch"] * self.num_items + state["samples_consumed"]
            return None
        epoch = state["epoch"] + 1
        self.consumed = epoch * self.num_items
        return (
            f"the training data changed since the checkpoint ({state['num_items']} items then, "
            f"{self.num_items} now): starting epoch {epoch} of the new data"
        )

    def content(self) -> dict[str, Any]:
        """Return what `restore` reads."""
        epoch, samples = divmod(self.consumed, self.num_items)
        return {
            "epoch": epoch,
            "samples_consumed": samples,
            "num_items": self.num_items,
            "data_fingerprint": self.fingerprint,
        }


@dataclass
class TrainingState:
    """Weights, their average, optimisers and counters.

    Attributes:
        recipe: the networks, already on their device.
        optimizers: one for each network that trains.
        scaler: scales the losses for fp16; does nothing otherwise.
        ema: the main network's moving average, if one is kept.
        position: in the training data.
        config: the run's resolved configuration.
        overrides: the command-line overrides that composed it.
        step: optimiser steps taken.
        seconds: spent training, resumed runs included.
        best_score: the lowest overall score of a validation so far (`Recipe.overall`).
        run_id: the logger's identifier of the run.
    """

    recipe: Recipe[Any]
    optimizers: dict[str, torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    ema: Ema | None
    position: Position
    config: dict[str, Any]
    overrides: list[str]
    step: int = 0
    seconds: float = 0.0
    best_score: float = float("inf")
    run_id: str | None = None

    @classmethod
    def fresh(
        cls,
        recipe: Recipe[Any],
        optimizers: Mapping[str, OptimizerConfig],
        position: Position,
        config: dict[str, Any],
        overrides: list[str],
        amp: str,
        ema_decay: float | None,
    ) -> "TrainingState":
        """Return the state of a run that starts from the recipe's current weights."""
        main = recipe.trained[recipe.main]
        return cls(
            recipe,
            {
                name: build_optimizer(recipe.parameter_groups(network), optimizers[name])
                for name, network in recipe.trained.items()
            },
            torch.amp.GradScaler(enabled=amp == "fp16"),
            None if ema_decay is None else Ema(main, ema_decay),
            position,
            config,
            overrides,
        )

    def advance(self, batch_size: int, skip: torch.Tensor) -> None:
        """Count one optimiser step and update the average, unless `skip`, on the device, is 1."""
        self.step += 1
        self.position.consumed += batch_size
        if self.ema is not None:
            self.ema.update(self.step, skip)

    def take_back(self, num_steps: int, batch_size: int) -> None:
        """Count steps no more in which nothing was updated."""
        self.step -= num_steps
        self.position.consumed -= num_steps * batch_size

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Give the main network its averaged weights inside the `with` block."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def content(self) -> Content:
        """Return what a checkpoint holds."""
        recipe = self.recipe
        weights = {name: weights_of(network) for name, network in recipe.saved.items()}
        ema = {} if self.ema is None else {recipe.main: self.ema.over(weights[recipe.main])}
        return Content(
            config=self.config,
            state={
                "step": self.step,
                **self.position.content(),
                "seconds": self.seconds,
                "best_score": self.best_score,
                "log_spectral_distance": DEFINITION,
                "run_id": self.run_id,
                "overrides": self.overrides,
                "torch": torch.__version__,
            },
            weights=weights,
            ema=ema,
            training={
                "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
                "scaler": self.scaler.state_dict(),
            },
            networks=recipe.blueprints,
        )

    def restore(
        self, checkpoint: Checkpoint, optimizers: Mapping[str, OptimizerConfig]
    ) -> str | None:
        """Restore a checkpoint; configured optimiser values replace saved ones.

        Returns:
            A notice for the user, if there is one.

        Raises:
            UserError: the checkpoint holds other networks.
        """
        recipe = self.recipe
        load_networks(recipe, checkpoint)
        training = checkpoint.training_state()
        for name, optimizer in self.optimizers.items():
            # Copied: on some file systems a file that is still mapped cannot be pruned.
            load_optimizer(optimizer, copy.deepcopy(training["optimizers"][name]))
            groups = recipe.parameter_groups(recipe.trained[name])
            apply_config(optimizer, groups, optimizers[name])
        if training["scaler"]:  # empty unless the run was in fp16
            self.scaler.load_state_dict(training["scaler"])
        if self.ema is not None:
            self.ema.load(checkpoint.averaged_weights(recipe.main))
        state = checkpoint.state
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_score, self.run_id = state["best_score"], state["run_id"]
        return self.position.restore(state)


def load_networks(
    recipe: Recipe[Any],
    checkpoint: Checkpoint,
    names: Collection[str] | None = None,
    averaged: bool = False,
) -> None:
    """Load networks of a recipe from a checkpoint.

    Args:
        recipe: its networks are loaded.
        checkpoint: holds the weights.
        names: of the networks; by default all that a checkpoint of the recipe holds.
        averaged: load the moving average of a network if there is one.

    Raises:
        UserError: a network is missing or has other shapes, or a base network has other weights.
    """
    for name, network in recipe.base.items():
        checkpoint.check_base(name, network.fingerprint())
    read = checkpoint.averaged_weights if averaged else checkpoint.weights
    for name in recipe.saved if names is None else names:
        if weights_of(recipe.saved[name]):
            load_weights(recipe.saved[name], read(name), checkpoint.path)
