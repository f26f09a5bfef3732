"""Snake activations, on a GPU in one kernel together with what comes just before them.

A decoder of convolutions and snakes is bound by the memory of the GPU. Torch alone reads and writes
each tensor in five kernels for a snake, in one for the bias of the convolution before it, and in
one for its sum with a shortcut. `snake_kernel` reads and writes it once for all of these.
"""

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor, nn

_SMALLEST = 1e-9  # added to alpha: where that is zero, a snake is the identity


class Snake(nn.Module):
    """x + sin²(αx) / α (Ziyin et al., NeurIPS 2020, arXiv 2006.08195) of a sum x.

    Args:
        alpha: (1, channels, 1).

    Attributes:
        bias: (channels,), added to x; None: nothing is (see `take_bias`).
    """

    def __init__(self, alpha: nn.Parameter) -> None:
        super().__init__()
        self.alpha = alpha
        self.bias: nn.Parameter | None = None

    def forward(
        self, x: Tensor, shortcut: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return the snake of x + bias + shortcut.

        In the stock module of transformers the float32 alpha makes float32, twice the memory, of
        all that follows.

        Args:
            x: (batch, channels, samples).
            shortcut: shaped as x; None: nothing is added.
            dtype: of the result; None: that of x.
        """
        dtype = dtype or x.dtype
        if _is_fused(x):
            return add_and_snake(x, self.alpha, self.bias, shortcut, False, dtype)[0]
        return self._activated(self._sum(x.to(dtype), shortcut))

    def with_sum(self, x: Tensor, shortcut: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the sum and its snake; see `forward`."""
        if shortcut is None and self.bias is None:
            return x, self(x)
        if _is_fused(x):
            activated, total = add_and_snake(x, self.alpha, self.bias, shortcut, True, x.dtype)
            return total, activated
        total = self._sum(x, shortcut)
        return total, self._activated(total)

    def take_bias(self, convolution: nn.Conv1d | nn.ConvTranspose1d) -> None:
        """Add the bias of a convolution here, where it costs nothing on a GPU, and no longer there.

        Afterwards the network cannot be saved as it was.
        """
        self.bias, convolution.bias = convolution.bias, None

    def _sum(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        x = x if self.bias is None else x + self.bias.to(x.dtype)[:, None]
        return x if shortcut is None else shortcut.to(x.dtype) + x

    def _activated(self, x: Tensor) -> Tensor:
        alpha = self.alpha.to(x.dtype)
        return x + (alpha + _SMALLEST).reciprocal() * torch.sin(alpha * x).square()


def _is_fused(x: Tensor) -> bool:
    return x.is_cuda and not torch.is_grad_enabled() and triton_works()


@functools.cache
def triton_works() -> bool:
    """Whether Triton is installed, and there is the C compiler that it needs to start kernels."""
    compilers = filter(None, [os.environ.get("CC"), "gcc", "clang"])
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


@torch.library.custom_op("open_miipher::add_and_snake", mutates_args=())
def add_and_snake(
    x: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    shortcut: Tensor | None,
    keeps_sum: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Do what `Snake` does in one kernel, in float32.

    Args:
        x: (batch, channels, samples).
        alpha: (1, channels, 1).
        bias: (channels,) or None.
        shortcut: shaped as x, or None.
        keeps_sum: whether the sum is asked for.
        dtype: of the snake.

    Returns:
        The snake, and the sum in the type of x; without `keeps_sum`, an empty tensor for that.
    """
    from open_miipher.layers.snake_kernel import launch

    if not (x.is_contiguous() or x.mT.is_contiguous()):
        x = x.contiguous()
    if shortcut is not None and shortcut.stride() != x.stride():
        shortcut = torch.empty_like(x).copy_(shortcut)
    activated, total = _outputs(x, keeps_sum, dtype)
    launch(x, alpha, bias, shortcut, activated, total if keeps_sum else None, _SMALLEST)
    return activated, total


@add_and_snake.register_fake
def _outputs_of(
    x: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    shortcut: Tensor | None,
    keeps_sum: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return _outputs(x, keeps_sum, dtype)


def _outputs(x: Tensor, keeps_sum: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=dtype), torch.empty_like(x) if keeps_sum else x.new_empty(0)
