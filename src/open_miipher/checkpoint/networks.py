"""Networks in a checkpoint: how to build them again, and which of their weights are saved."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry, build


@dataclass(frozen=True)
class Blueprint:
    """How to build a network from plain data.

    Attributes:
        kind: of the registry that has the network's class (`Registry.kind`).
        spec: the class's name in the registry and the fields of its `Config`.
        arguments: the arguments before the config: numbers, or another network of the checkpoint as
            `{"network": NAME}`.
        fingerprint: of a base network, whose weights come from elsewhere and are not saved; None
            for other networks.
    """

    kind: str
    spec: Mapping[str, Any]
    arguments: Sequence[Any] = ()
    fingerprint: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return plain data, as in `networks.json`."""
        return asdict(self)

    def build(self, networks: Mapping[str, nn.Module], key: str) -> nn.Module:
        """Build the network, with fresh weights; a base network loads its own.

        Args:
            networks: the networks that the arguments name.
            key: name of the spec in messages.

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
        """The names of the networks among the arguments."""
        return [value["network"] for value in self.arguments if isinstance(value, Mapping)]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network that a checkpoint saves.

    A network that contains a base network leaves the weights of that one out
    (`trained_state_dict`).
    """
    save = getattr(network, "trained_state_dict", network.state_dict)
    return dict(save())


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load the result of `weights_of`; keys and shapes must be equal.

    Args:
        network: to load into.
        state: the weights.
        source: where they come from, for the message.

    Raises:
        UserError: the weights belong to another architecture.
    """
    if hasattr(network, "load_trained_state_dict"):
        network.load_trained_state_dict(dict(state))
        return
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:400]
        raise UserError(
            f"the weights in {source} are for another architecture than the configured one: {first}"
        ) from error
