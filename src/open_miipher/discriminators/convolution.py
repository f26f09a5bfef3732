"""The convolutions that the discriminators are made of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from open_miipher.base.precision import in_float32, stay_in_float32, stays_in_float32


class Conv1d(nn.Conv1d):
    """A convolution whose weights' gradients are summed in float64 on a CPU.

    The hinge loss has the gradient ±1/n at every place, and the gradients of real and generated
    waveforms nearly cancel. In float32, only rounding errors would be left of their sum. These
    depend on the size of the batch, and Adam turns them into steps of full size. What is computed
    row by row does not depend on it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(rows, channels in, places) -> (rows, channels out, places)."""
        return _convolve(self, input)


class Conv2d(nn.Conv2d):
    """The same as `Conv1d`, over two dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(rows, channels in, frames, bins) -> (rows, channels out, frames, bins)."""
        return _convolve(self, input)


def _convolve(module: Conv1d | Conv2d, x: Tensor) -> Tensor:
    is_exact = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if stays_in_float32(module) and not is_exact:
        with in_float32(x.device):
            return module._conv_forward(x.float(), module.weight, module.bias)
    if not is_exact:
        return module._conv_forward(x, module.weight, module.bias)
    how = (module.stride, module.padding, module.dilation, module.groups)
    convolved: Tensor = _ExactSums.apply(x, module.weight, module.bias, *how)
    return convolved


class _ExactSums(torch.autograd.Function):
    """A convolution; only the sums over rows and places are taken in float64."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = (stride, padding, dilation, False, [0] * len(stride), groups)
        return torch.convolution(x, weight, bias, *ctx.how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        of_x = of_weight = of_bias = None
        if needs_x:
            of_x, _, _ = _gradients(gradient, x, weight, ctx.how, (True, False, False))
        if needs_weight or needs_bias:
            exact = (gradient.double(), x.double(), weight.double())
            _, of_weight, of_bias = _gradients(*exact, ctx.how, (False, True, True))
            of_weight, of_bias = of_weight.to(weight.dtype), of_bias.to(weight.dtype)
        return of_x, of_weight, of_bias, None, None, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, how: tuple[Any, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], *how, wanted
    )
    return gradients


def convolution(
    width_in: int,
    width_out: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    is_first: bool = False,
) -> Conv1d:
    """Return a weight-normalised convolution, padded with half a kernel of zeros on both sides.

    The first of a network hears the waveform: in float32, whatever the others compute in.
    """
    made = Conv1d(width_in, width_out, kernel_size, stride, kernel_size // 2, groups=groups)
    if is_first:
        stay_in_float32(made)
    return weight_norm(made)


def convolution_2d(
    width_in: int,
    width_out: int,
    kernel_size: tuple[int, int],
    stride: int = 1,
    is_first: bool = False,
) -> Conv2d:
    """Return a weight-normalised convolution over frames and bins, with its stride in the bins."""
    frames, bins = kernel_size
    made = Conv2d(width_in, width_out, kernel_size, (1, stride), (frames // 2, bins // 2))
    if is_first:
        stay_in_float32(made)
    return weight_norm(made)
