"""Networks as checkpoints hold them: how each is built again, and which weights are its own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry, build


@dataclass(frozen=True)
class Blueprint:
    """How a network is built: the part of a registry that `spec` names, from plain data alone.

    Attributes:
        kind: of the registry, as `Registry.kind` has it.
        spec: the part's name and the fields of its `Config`.
        arguments: what it takes before its config: numbers, or another network of the checkpoint
            as `{"network": NAME}`.
        fingerprint: of a base network, whose weights come from elsewhere and are not saved; None
            for the others.
    """

    kind: str
    spec: Mapping[str, Any]
    arguments: Sequence[Any] = ()
    fingerprint: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as `networks.json` holds it."""
        return asdict(self)

    def build(self, networks: Mapping[str, nn.Module], key: str) -> nn.Module:
        """Build the network, with fresh weights, or with those that a base network finds itself.

        Args:
            networks: those that the arguments name.
            key: what to call the spec in messages.

        Raises:
            UserError: the registry or the part is unknown, or a field does not fit.
        """
        if self.kind not in Registry.of_kind:
            raise UserError(
                f"{key} is of the unknown kind {self.kind!r}; known: "
                f"{', '.join(sorted(Registry.of_kind))}"
            )
        arguments = (
            networks[value["network"]] if isinstance(value, Mapping) else value
            for value in self.arguments
        )
        network: nn.Module = build(Registry.of_kind[self.kind], self.spec, *arguments, key=key)
        return network

    @property
    def needed(self) -> list[str]:
        """The networks that its arguments name."""
        return [value["network"] for value in self.arguments if isinstance(value, Mapping)]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a checkpoint holds of a network.

    One that stands on a base network leaves its weights out (`trained_state_dict`).
    """
    save = getattr(network, "trained_state_dict", network.state_dict)
    return dict(save())


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load what `weights_of` gave, every key and shape the same.

    Args:
        network: takes them.
        state: the weights.
        source: where they come from, for the message.

    Raises:
        UserError: they are of another architecture.
    """
    if hasattr(network, "load_trained_state_dict"):
        network.load_trained_state_dict(dict(state))
        return
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:400]
        raise UserError(
            f"the weights in {source} are of another architecture than the one configured: {first}"
        ) from error
