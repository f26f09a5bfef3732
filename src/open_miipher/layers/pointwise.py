"""What stands between two convolutions of a generator, on a GPU in one kernel.

Generators are bound by the memory of the GPU. Between two convolutions, torch alone reads and
writes each tensor once for the bias of the first, once for the sum with a shortcut, and once to
five times for what modulates and activates it. `pointwise_kernel` reads and writes it once in all.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.compilers import missing_for_kernels
from open_miipher.base.errors import notice

_SMALLEST = 1e-9  # added to alpha: where that is zero, a snake is the identity


class Pointwise(nn.Module):
    """Add a bias and a shortcut, modulate and activate.

    Args:
        alpha: of a snake, (1, channels, 1); None: the activation is a leaky ReLU.
        slope: of a leaky ReLU.

    Attributes:
        bias: (channels,), added; None: nothing is (see `take_bias`).
        is_fused: whether it is one kernel on a GPU, without gradients (see `fuse`).
    """

    def __init__(self, alpha: nn.Parameter | None = None, slope: float = 0.0) -> None:
        super().__init__()
        self.alpha, self.slope = alpha, slope
        self.bias: nn.Parameter | None = None
        self.is_fused = False

    def forward(
        self,
        x: Tensor,
        shortcut: Tensor | None = None,
        film: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return f(scale · (x + bias + shortcut) + shift).

        Args:
            x: (batch, channels, samples).
            shortcut: shaped as x; None: nothing is added.
            film: (batch, 2 · channels, samples), scales and then shifts; None: 1 and 0.
            dtype: of the result; None: that of x.
        """
        dtype = dtype or x.dtype
        if self.is_fused and x.is_cuda:
            own = (self.alpha, self.bias, shortcut, film)
            return activate(x, *own, self.slope, False, dtype)[0]
        return self._activated(self._sum(x.to(dtype), shortcut), film)

    def with_sum(
        self, x: Tensor, shortcut: Tensor | None = None, film: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x + bias + shortcut, and what `forward` does."""
        if shortcut is None and self.bias is None:
            return x, self(x, None, film)
        if self.is_fused and x.is_cuda:
            own = (self.alpha, self.bias, shortcut, film)
            activated, total = activate(x, *own, self.slope, True, x.dtype)
            return total, activated
        total = self._sum(x, shortcut)
        return total, self._activated(total, film)

    def take_bias(self, convolution: nn.Conv1d | nn.ConvTranspose1d) -> None:
        """Add the bias of a convolution here, where it costs nothing on a GPU, and no longer there.

        Afterwards the network cannot be saved as it was.
        """
        self.bias, convolution.bias = convolution.bias, None

    def _sum(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        x = x if self.bias is None else x + self.bias.to(x.dtype)[:, None]
        return x if shortcut is None else shortcut.to(x.dtype) + x

    def _activated(self, x: Tensor, film: Tensor | None) -> Tensor:
        if film is not None:
            scale, shift = film.chunk(2, dim=1)
            x = torch.addcmul(shift, scale, x)
        if self.alpha is None:
            return functional.leaky_relu(x, self.slope)
        alpha = self.alpha.to(x.dtype)
        return x + (alpha + _SMALLEST).reciprocal() * torch.sin(alpha * x).square()


class Snake(Pointwise):
    """x + sin²(αx) / α (Ziyin et al., NeurIPS 2020, arXiv 2006.08195).

    In the stock module of transformers the float32 alpha makes float32, twice the memory, of all
    that follows; here it is in the type of x.

    Args:
        alpha: (1, channels, 1).
    """

    def __init__(self, alpha: nn.Parameter) -> None:
        super().__init__(alpha)


def fuse(network: nn.Module) -> None:
    """Have what stands between a network's convolutions be one kernel on a GPU.

    The network cannot be trained afterwards. Where Triton cannot compile that kernel, a notice says
    what it lacks.
    """
    missing = missing_for_kernels("cuda")
    for module in network.modules():
        if isinstance(module, Pointwise):
            module.is_fused = missing is None
    if missing is not None:
        notice(
            "on a GPU the generator moves up to three times as much memory, since this machine "
            f"lacks {missing}"
        )


@torch.library.custom_op("open_miipher::activate", mutates_args=())
def activate(
    x: Tensor,
    alpha: Tensor | None,
    bias: Tensor | None,
    shortcut: Tensor | None,
    film: Tensor | None,
    slope: float,
    keeps_sum: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Do what `Pointwise` does in one kernel, in float32.

    Args:
        x: (batch, channels, samples).
        alpha: (1, channels, 1) of a snake; None: it is a leaky ReLU.
        bias: (channels,) or None.
        shortcut: shaped as x, or None.
        film: (batch, 2 · channels, samples) or None.
        slope: of the leaky ReLU.
        keeps_sum: whether the sum is asked for.
        dtype: of the first result.

    Returns:
        What is activated, and the sum in the type of x; without `keeps_sum`, an empty tensor for
        that.
    """
    from open_miipher.layers.pointwise_kernel import launch

    if not (x.is_contiguous() or x.mT.is_contiguous()):
        x = x.contiguous()
    shortcut, film = (_laid_out_as(x, other) for other in (shortcut, film))
    activated, total = _outputs(x, keeps_sum, dtype)
    given = (x, alpha, bias, shortcut, film)
    with torch.cuda.device_of(x):  # Triton starts kernels on the current one
        launch(*given, activated, total if keeps_sum else None, slope, _SMALLEST)
    return activated, total


@activate.register_fake
def _outputs_of(
    x: Tensor,
    alpha: Tensor | None,
    bias: Tensor | None,
    shortcut: Tensor | None,
    film: Tensor | None,
    slope: float,
    keeps_sum: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return _outputs(x, keeps_sum, dtype)


def _outputs(x: Tensor, keeps_sum: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=dtype), torch.empty_like(x) if keeps_sum else x.new_empty(0)


def _laid_out_as(x: Tensor, other: Tensor | None) -> Tensor | None:
    """Return the other with its channels, or its samples, side by side, as x has them."""
    if other is None:
        return None
    return other.contiguous() if x.is_contiguous() else other.mT.contiguous().mT
