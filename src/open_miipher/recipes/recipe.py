"""What every recipe offers to the trainer."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.noise import white_noise
from open_miipher.checkpoint import load_strictly
from open_miipher.encoders import Encoder


class Batch(Protocol):
    """What a recipe needs of a batch; `data.Batch` is one.

    Attributes:
        clean: (batch, samples) at the data's sample rate, zero beyond `lengths`.
        damaged: (batch, samples), aligned with `clean`.
        lengths: (batch,) true samples.
        positions: (batch,) place in the endless stream of samples.
    """

    clean: Tensor
    damaged: Tensor
    lengths: Tensor
    positions: Tensor


@dataclass
class Pass:
    """The losses that update one network.

    Attributes:
        network: its name in `Recipe.trained`.
        loss: their weighted sum, a scalar; the mean over samples of a per-sample value.
        losses: every named loss, unweighted.
    """

    network: str
    loss: Tensor
    losses: dict[str, Tensor]


class Recipe(ABC):
    """One training stage: its networks, the passes of a step, how it is scored and heard.

    Attributes:
        trained: the networks that train, by name; the first is the one the stage is about, and
            only that one is averaged (EMA), validated and sampled.
        frozen: networks that are used, saved along, and not trained.
        encoder: the frozen base encoder, whose weights are never saved, only their fingerprint.
        score: the name of the validation value that chooses the best checkpoint; lower is better.
    """

    score: ClassVar[str]
    trained: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    encoder: Encoder

    @property
    def main(self) -> str:
        """The name of the network that the stage is about."""
        return next(iter(self.trained))

    @abstractmethod
    def passes(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the passes of one step; the caller runs each one's backward before the next.

        Args:
            batch: damaged and clean audio.
            networks: `trained`, as wrapped by DDP: a network is called through it in the pass
                that updates it. In any other pass the recipe calls the bare one, frozen.
        """

    @abstractmethod
    def validate(self, clip: Batch) -> dict[str, float]:
        """Restore one clip (a batch of one) and score it.

        Returns:
            Named values, `score` among them.
        """

    @abstractmethod
    def samples(self, clip: Batch) -> dict[str, Tensor]:
        """Return audio of one clip to listen to, each (samples,) at the data's rate; maybe none."""

    def to(self, device: torch.device) -> None:
        """Move every network to a device."""
        for network in (*self.trained.values(), *self.frozen.values(), self.encoder):
            network.to(device)

    def state_dict_of(self, name: str) -> dict[str, Tensor]:
        """Return what a checkpoint saves of a network (a cleaner leaves its base encoder out)."""
        network = {**self.trained, **self.frozen}[name]
        save = getattr(network, "trained_state_dict", network.state_dict)
        return dict(save())

    def load(self, name: str, state: Mapping[str, Tensor], source: Path) -> None:
        """Load what `state_dict_of` gave, found in `source`.

        Raises:
            UserError: a key is missing, unknown, or of another shape.
        """
        network = {**self.trained, **self.frozen}[name]
        if hasattr(network, "load_trained_state_dict"):
            network.load_trained_state_dict(dict(state))
        else:
            load_strictly(network, state, source)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add up named losses; every one has a weight (checked by `check_weights`)."""
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


def check_weights(weights: Mapping[str, float], names: tuple[str, ...], key: str) -> None:
    """Check that the weights name exactly the losses there are.

    Raises:
        UserError: an unknown or a missing name.
    """
    for name in weights:
        if name not in names:
            raise UserError(f"{key}.{name} weighs no loss; the losses are {', '.join(names)}")
    for name in names:
        if name not in weights:
            raise UserError(f"{key}.{name} is missing; give every loss a weight (0 turns it off)")


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network, not into its parameters."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def sample_noise(seed: int, positions: Tensor, num_samples: int) -> Tensor:
    """Draw each sample's initial noise from the run's seed and the sample's position alone.

    Returns:
        (batch, num_samples) standard normal, on the device of `positions`.
    """
    noise = [white_noise(sample_seed(seed, p, 0), 0, num_samples) for p in positions.tolist()]
    return torch.stack(noise).to(positions.device)


def sample_uniform(seed: int, positions: Tensor) -> Tensor:
    """Draw one number in [0, 1) a sample from the run's seed and its position: (batch,)."""
    draws = [np.random.default_rng(sample_seed(seed, p, 1)).random() for p in positions.tolist()]
    return torch.tensor(draws, dtype=torch.float32, device=positions.device)


def sample_seed(seed: int, position: int, purpose: int) -> int:
    """Return a seed for one use of randomness in one sample."""
    words = np.random.SeedSequence([seed, position, purpose]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
