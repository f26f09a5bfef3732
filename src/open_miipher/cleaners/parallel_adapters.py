"""Parallel adapters in every layer of a frozen speech encoder: Miipher-2's feature cleaner."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from open_miipher.base.errors import UserError
from open_miipher.cleaners.base import HookedCleaner
from open_miipher.encoders import Encoder

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


@dataclass
class ParallelAdaptersConfig:
    """The adapters' shape, with a key for each choice that the paper leaves open.

    Attributes:
        bottleneck: hidden width of each adapter.
        tap: what an adapter reads: its layer's `input` (parallel to the layer, as in He et al.,
            arXiv 2110.04366) or its layer's `output`.
        norm: layer norm before the adapters: one that all share (`shared`, Fig. 1 of the paper),
            one for each (`layer`), or `none`.
        activation: the function between the two linear layers.
        init: `zero_up` starts as the identity (the second linear layer is zero); `random` does not.
        gradient_checkpointing: compute the encoder's layers again in the backward pass instead of
            keeping their activations.
    """

    bottleneck: int = 1024
    tap: Literal["input", "output"] = "input"
    norm: Literal["shared", "layer", "none"] = "shared"
    activation: Literal["relu", "gelu", "silu"] = "relu"
    init: Literal["zero_up", "random"] = "zero_up"
    gradient_checkpointing: bool = False


class ParallelAdapters(HookedCleaner):
    """A bottleneck of two linear layers parallel to every used layer of the encoder.

    "Raw layer output plus adapter output is the next layer's input" (Karita et al., WASPAA 2025,
    arXiv 2505.04457, section 2.2). The sum after the last used layer is the cleaned features.
    """

    Config = ParallelAdaptersConfig

    def __init__(self, encoder: Encoder, config: ParallelAdaptersConfig) -> None:
        """Attach adapters to an encoder.

        Args:
            encoder: has at least one layer.
            config: shape of the adapters.

        Raises:
            UserError: the encoder has no layers.
        """
        super().__init__(encoder)
        if len(encoder.layers) == 0:
            raise UserError(
                "model.cleaner.name=parallel_adapters needs an encoder with layers; "
                "use conformer for log_mel"
            )
        self.tap = config.tap
        self.norm = nn.LayerNorm(encoder.width) if config.norm == "shared" else nn.Identity()
        self.adapters = nn.ModuleList(_adapter(encoder.width, config) for _ in encoder.layers)
        for index, layer in enumerate(encoder.layers):
            if config.gradient_checkpointing:
                layer.forward = functools.partial(_recomputed, layer.forward)
            layer.register_forward_hook(functools.partial(self._adapt, index), with_kwargs=True)

    def _adapt(
        self,
        index: int,
        layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        """Forward hook of layer `index`: add the adapter's output to the hidden states."""
        if not self.is_acting:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        entered = args[0] if args else kwargs["hidden_states"]
        tapped = entered if self.tap == "input" else hidden
        # In the layer's own type: the next layer must compute in the same type as the teacher's.
        hidden = hidden + self.adapters[index](self.norm(tapped)).to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _adapter(width: int, config: ParallelAdaptersConfig) -> nn.Sequential:
    down, up = nn.Linear(width, config.bottleneck), nn.Linear(config.bottleneck, width)
    if config.init == "zero_up":
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
    maps = [down, ACTIVATIONS[config.activation](), up]
    return nn.Sequential(*([nn.LayerNorm(width)] if config.norm == "layer" else []), *maps)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a frozen layer; its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # The encoder is in evaluation mode and draws nothing, so no random state has to be kept.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
