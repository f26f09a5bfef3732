"""Noise of a network's own `torch.randn`, item by item from seeds, in whatever batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from open_miipher.base.noise import stream_keys, white_noise

_STREAM_BITS = 32  # places of a channel's stream: longer than any signal


class seeded_noise(TorchFunctionMode):
    """Within the block, normal noise of the shape (batch, …, time) comes from a seed an item.

    The n-th noise that is drawn, at a channel and a time, depends on the item's seed, n, channel
    and time alone: neither on the batch, nor on the padding, nor on the device.

    Args:
        seeds: of the items of the batch, 0 … 2⁶³ - 1.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self._seeds = torch.tensor(seeds, dtype=torch.int64)
        self._draw = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw in place of `torch.randn` and `torch.randn_like`; do all else as it is."""
        if func is torch.randn_like:
            return self._noise(args[0].shape, args[0].device).to(args[0].dtype)
        if func is torch.randn:
            shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
            return self._noise(shape, torch.device((kwargs or {}).get("device") or "cpu"))
        return func(*args, **(kwargs or {}))

    def _noise(self, shape: Sequence[int], device: torch.device) -> Tensor:
        if len(shape) < 2 or shape[0] != len(self._seeds):
            raise ValueError(f"noise of the shape {tuple(shape)} for {len(self._seeds)} seeds")
        num_channels, self._draw = math.prod(shape[1:-1]), self._draw + 1
        keys = stream_keys(0, self._seeds.to(device), self._draw).repeat_interleave(num_channels)
        starts = (torch.arange(num_channels, device=device) << _STREAM_BITS).repeat(shape[0])
        return white_noise(keys, starts, shape[-1]).reshape(tuple(shape))
