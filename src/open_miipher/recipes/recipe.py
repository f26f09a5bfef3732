"""The interface between a recipe and the trainer."""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry, build
from open_miipher.checkpoint import Blueprint
from open_miipher.data.batch import Batch

B = TypeVar("B", bound=Batch)


@dataclass
class Pass:
    """The losses that update one network.

    Attributes:
        network: its name in `Recipe.trained`.
        loss: the weighted sum of the losses, a scalar; a mean over samples of a per-sample value.
        losses: every named loss, unweighted.
    """

    network: str
    loss: Tensor
    losses: dict[str, Tensor]


@dataclass
class Sound:
    """Something to listen to: (samples,) at `sample_rate` Hz, full scale ±1."""

    waveform: Tensor
    sample_rate: int


@dataclass
class ParameterGroup:
    """Parameters that share their optimiser settings.

    Attributes:
        parameters: of one network.
        decays: whether the configured weight decay applies to them.
        lr_scale: factor on the configured learning rate.
    """

    parameters: list[nn.Parameter]
    decays: bool = True
    lr_scale: float = 1.0


class Recipe(ABC, Generic[B]):
    """One training stage: its networks, the passes of a step, its validation and samples.

    A recipe is built from the data source, the run's seed and its `Config`. `B` is the kind of
    batch that it trains on.

    Attributes:
        data_kinds: the kinds of batches that it trains on.
        score: the name of the validation value that chooses the best checkpoint by default.
        scores: the other validation values that may choose it (`trainer.best_by`).
        rising: those of which more is better; of all others less is.
        best_by: what chooses it in this run; costly values are measured only if named here.
        parts: the keys of `model` that a configuration may leave empty, to be filled in from the
            checkpoint of an earlier stage.
        takes: maps a key of `model` that names an earlier stage's checkpoint to the networks whose
            weights are taken from it, if this recipe has them.
        samples_folder: of the output directory, that gets the sounds to listen to.
        base: pretrained modules by name. They are never trained, and a checkpoint does not hold
            their weights, only their `fingerprint()` and how they are built.
        trained: the networks that train, by name. The first is the main one: only that one is
            averaged (EMA), validated and sampled.
        frozen: networks that are used and saved, but not trained.
        tools: modules without weights of their own, such as losses, schedules and front ends.
    """

    Config: ClassVar[type]
    data_kinds: ClassVar[tuple[type[Batch], ...]]
    score: ClassVar[str]
    scores: ClassVar[tuple[str, ...]] = ()
    rising: ClassVar[frozenset[str]] = frozenset()
    parts: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    samples_folder: ClassVar[str] = "samples"

    def __init__(self) -> None:
        self.best_by: Sequence[str] = (self.score,)
        self.base: dict[str, nn.Module] = {}
        self.trained: dict[str, nn.Module] = {}
        self.frozen: dict[str, nn.Module] = {}
        self.tools: list[nn.Module] = []
        self._blueprints: dict[str, Blueprint] = {}

    @abstractmethod
    def passes(self, batch: B, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the passes of one step; the caller runs each one's backward before the next.

        Args:
            batch: of one of `data_kinds`, its tensors on the networks' device.
            networks: `trained`, wrapped by DDP. A pass calls the network that it updates through
                this wrapper; any other network it calls directly, frozen.
        """

    @abstractmethod
    def validate(self, batch: B) -> dict[str, float]:
        """Score one clip, a batch of one; called without gradients, networks in evaluation mode.

        Returns:
            Every value that validation logs, including `score`.
        """

    @abstractmethod
    def samples(self, batch: B | None) -> dict[str, Sound]:
        """Return sounds to listen to, by name; called like `validate`.

        Args:
            batch: one clip, or None if there is no validation data: then an unconditional recipe
                generates sounds, and any other returns nothing.
        """

    @classmethod
    def check_scores(cls, names: Sequence[str]) -> None:
        """Check that validation gives the scores that `trainer.best_by` names.

        Raises:
            UserError: it does not, or what measures one is not installed.
        """
        known = (cls.score, *cls.scores)
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise UserError(
                f"trainer.best_by={', '.join(unknown) or '[]'} is no score of this validation; "
                f"give a list of {', '.join(known)}, or null for {cls.score}"
            )

    def overall(self, scores: Mapping[str, float]) -> float:
        """Return how bad a validation is: the geometric mean of the scores in `best_by`.

        Of a rising score it takes the inverse. So equal shares count alike: what makes one score
        1 % better and another 1 % worse changes nothing.
        """
        factors = [
            1.0 / scores[name] if name in self.rising else scores[name] for name in self.best_by
        ]
        return math.prod(factors) ** (1.0 / len(factors))

    @property
    def main(self) -> str:
        """The name of the main network, the first in `trained`."""
        return next(iter(self.trained))

    @property
    def saved(self) -> dict[str, nn.Module]:
        """The networks whose weights a checkpoint holds."""
        return {**self.trained, **self.frozen}

    @property
    def blueprints(self) -> dict[str, Blueprint]:
        """How to build each network again; saved in a checkpoint."""
        prints = {name: network.fingerprint() for name, network in self.base.items()}
        return {
            name: replace(blueprint, fingerprint=prints.get(name))
            for name, blueprint in self._blueprints.items()
        }

    @classmethod
    def is_given(cls, part: str, spec: Mapping[str, Any]) -> bool:
        """Whether the configuration gives a part, instead of leaving it to an earlier stage."""
        return "name" in spec

    @classmethod
    def run_name(cls, model: Mapping[str, Any]) -> str | None:
        """Return what a run without `trainer.output_dir` is called in `output/`.

        Args:
            model: the `model` part of the configuration, which may be wrong still.

        Returns:
            The name, or None for the model's name and the time.
        """
        return None

    def parameter_groups(self, network: nn.Module) -> list[ParameterGroup]:
        """Sort a network's trainable parameters into groups for its optimiser.

        By default, weight decay applies to matrices and kernels, and not to parameters with one
        number per channel: biases, norms, magnitudes of weight norm, snake activations.
        """
        trainable = [p for p in network.parameters() if p.requires_grad]
        vectors = {id(p) for p in trainable if p.numel() == max(p.shape, default=1)}
        groups = [
            ParameterGroup([p for p in trainable if id(p) not in vectors]),
            ParameterGroup([p for p in trainable if id(p) in vectors], decays=False),
        ]
        return [group for group in groups if group.parameters]

    def to(self, device: torch.device) -> None:
        """Move every network and tool to a device."""
        for module in (*self.base.values(), *self.saved.values(), *self.tools):
            module.to(device)

    def compile(self) -> None:
        """Compile every network and tool in place, each when it is first called.

        Weights keep their names. What a network computes under other conditions, such as without
        gradients, is compiled apart; so is each shape, but those of batches that vary.
        """
        varies = not all(kind.has_one_shape for kind in self.data_kinds)
        for module in (*self.base.values(), *self.saved.values(), *self.tools):
            module.compile(dynamic=None if varies else False)

    def build(
        self, name: str, registry: Registry[Any], spec: Mapping[str, Any], *arguments: Any, key: str
    ) -> Any:
        """Build a network, and record how, so that a checkpoint can build it again.

        Args:
            name: of the network.
            registry: of its kind.
            spec: its name in the registry and the fields of its `Config`.
            *arguments: its arguments before the config: numbers, or networks that are in `base`,
                `trained` or `frozen` already.
            key: the configuration key of the spec, for messages.

        Raises:
            UserError: the spec does not fit.
        """
        names = {id(network): n for n, network in {**self.base, **self.saved}.items()}
        plain = [{"network": names[id(a)]} if isinstance(a, nn.Module) else a for a in arguments]
        self._blueprints[name] = Blueprint(registry.kind, spec, plain)
        return build(registry, spec, *arguments, key=key)


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add up the weighted losses; each must have a weight (see `check_weights`)."""
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


def check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Check that `model.loss_weights` has a weight for each loss, and no other.

    Raises:
        UserError: a name is unknown or missing.
    """
    for name in weights:
        if name not in names:
            losses = ", ".join(names)
            raise UserError(f"model.loss_weights.{name} is not a loss; the losses are {losses}")
    for name in names:
        if name not in weights:
            raise UserError(
                f"model.loss_weights.{name} is missing; give every loss a weight (0 turns it off)"
            )


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside the block, gradients pass through a network but its parameters get none."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
