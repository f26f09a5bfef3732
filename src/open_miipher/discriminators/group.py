"""Several discriminators as one network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry, build


@dataclass
class DiscriminatorGroupConfig:
    """What is in a group.

    Attributes:
        members: the name of a discriminator → its fields.
    """

    members: dict[str, dict[str, Any]]


class DiscriminatorGroup(nn.Module):
    """Discriminators that judge the same waveform and train together.

    Args:
        config: which they are.

    Raises:
        UserError: there is none, or one of them cannot be built.
    """

    Config = DiscriminatorGroupConfig

    def __init__(self, config: DiscriminatorGroupConfig) -> None:
        super().__init__()
        if not config.members:
            raise UserError("model.discriminators is empty; name at least one")
        registry: Registry[nn.Module] = Registry.of_kind["discriminator"]
        self.parts = nn.ModuleDict(
            {
                name: build(registry, {"name": name, **spec}, key="model.discriminators")
                for name, spec in config.members.items()
            }
        )

    def forward(self, waveform: Tensor, only_logits: bool = False) -> list[list[Tensor]]:
        """Judge (batch, samples): feature maps a sub-discriminator, the logits last.

        Args:
            waveform: (batch, samples).
            only_logits: leave out the maps, for which compiled code would compute gradients of 0.
        """
        judged = [maps for part in self.parts.values() for maps in part(waveform)]
        return [maps[-1:] for maps in judged] if only_logits else judged
