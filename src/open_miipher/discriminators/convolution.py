"""The convolutions that the discriminators are made of."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from open_miipher.base.precision import in_float32, stay_in_float32, stays_in_float32


class Conv1d(nn.Conv1d):
    """A convolution that computes in float64 on a CPU.

    The hinge loss has the gradient ±1/n at every place, and the gradients of real and generated
    waveforms nearly cancel. In float32, only rounding errors would be left of their sum. These
    depend on the size of the batch, and Adam turns them into steps of full size.
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
    weight, bias = module.weight.double(), module.bias.double()
    return module._conv_forward(x.double(), weight, bias).to(x.dtype)


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
