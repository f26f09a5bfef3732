"""The last convolution of a discriminator."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ToLogits(nn.Module):
    """(rows, channels, places) -> (rows, 1, places): a convolution of 3 places and a bias.

    The hinge loss sends the same ±1/n to every place, and real and generated ones cancel. On a CPU
    a convolution adds up its own bias's gradient one by one, which leaves an error of 1e-5 that
    depends on the size of the batch; a separate bias is summed pairwise.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = weight_norm(nn.Conv1d(channels, 1, 3, padding=1, bias=False))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Judge every place."""
        return self.convolution(x) + self.bias
