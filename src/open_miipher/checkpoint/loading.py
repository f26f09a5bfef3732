"""Weights into networks, with nothing left over."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from open_miipher.base.errors import UserError


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Load weights, every key and shape the same.

    Args:
        network: takes them.
        state: what `network.state_dict()` gave.
        source: where they come from, for the message.

    Raises:
        UserError: they are of another architecture.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:400]
        raise UserError(
            f"the weights in {source} are of another architecture than the one configured: {first}"
        ) from error
