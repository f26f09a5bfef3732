"""The convolutions that the discriminators are made of."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Conv1d(nn.Conv1d):
    """A convolution whose bias is added apart.

    The hinge loss sends the same ±1/n to every place, and real and generated ones nearly cancel. On
    a CPU a convolution adds up its own bias's gradient one by one, which leaves an error of 1e-5
    that depends on the size of the batch; the gradient of a sum is added up pairwise.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(rows, channels in, places) -> (rows, channels out, places)."""
        assert self.bias is not None
        return self._conv_forward(input, self.weight, None) + self.bias[:, None]


class Conv2d(nn.Conv2d):
    """The same over two dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(rows, channels in, frames, bins) -> (rows, channels out, frames, bins)."""
        assert self.bias is not None
        return self._conv_forward(input, self.weight, None) + self.bias[:, None, None]


def convolution(
    width_in: int, width_out: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> Conv1d:
    """Return a weight-normalised convolution; the places are padded by half a kernel of zeros."""
    return weight_norm(
        Conv1d(width_in, width_out, kernel_size, stride, kernel_size // 2, groups=groups)
    )


def convolution_2d(
    width_in: int, width_out: int, kernel_size: tuple[int, int], stride: int = 1
) -> Conv2d:
    """Return one over frames and bins, the stride in the bins; padded in the same way."""
    frames, bins = kernel_size
    return weight_norm(
        Conv2d(width_in, width_out, kernel_size, (1, stride), (frames // 2, bins // 2))
    )
