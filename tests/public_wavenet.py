"""A WaveNet as the public DiffWave code has it, to be imported."""

import math

import torch
from torch import nn

LAYERS, WIDTH, SKIP = 30, 8, 12


class Public(nn.Module):
    """A WaveNet with the parts, and the names, of the public code; unconditional."""

    def __init__(self):
        super().__init__()
        normed = nn.utils.weight_norm
        wrapped = lambda *size, **more: nn.ModuleDict({"conv": normed(nn.Conv1d(*size, **more))})  # noqa: E731
        self.init_conv = nn.ModuleList([wrapped(1, WIDTH, 1)])
        self.residual_layer = nn.Module()
        self.residual_layer.fc_t1, self.residual_layer.fc_t2 = nn.Linear(128, 16), nn.Linear(16, 20)
        self.residual_layer.residual_blocks = nn.ModuleList()
        for n in range(LAYERS):
            block, dilation = nn.Module(), 2 ** (n % 10)
            block.fc_t = nn.Linear(20, WIDTH)
            more = {"dilation": dilation, "padding": dilation}
            block.dilated_conv_layer = wrapped(WIDTH, 2 * WIDTH, 3, **more)
            block.res_conv = normed(nn.Conv1d(WIDTH, WIDTH, 1))
            block.skip_conv = normed(nn.Conv1d(WIDTH, SKIP, 1))
            self.residual_layer.residual_blocks.append(block)
        out = nn.ModuleDict({"conv": nn.Conv1d(SKIP, 1, 1)})
        self.final_conv = nn.ModuleList([wrapped(SKIP, SKIP, 1), nn.ReLU(), out])

    def forward(self, x, steps):
        frequencies = torch.exp(-math.log(10000) / 63 * torch.arange(64))
        angles = steps[:, None] * frequencies
        step = torch.cat([angles.sin(), angles.cos()], 1)
        for layer in (self.residual_layer.fc_t1, self.residual_layer.fc_t2):
            step = layer(step)
            step = step * step.sigmoid()
        x, skips = self.init_conv[0]["conv"](x).relu(), 0
        for block in self.residual_layer.residual_blocks:
            h = block.dilated_conv_layer["conv"](x + block.fc_t(step)[..., None])
            h = h[:, :WIDTH].tanh() * h[:, WIDTH:].sigmoid()
            x, skips = (x + block.res_conv(h)) * 0.5**0.5, skips + block.skip_conv(h)
        h = self.final_conv[0]["conv"](skips * LAYERS**-0.5).relu()
        return self.final_conv[2]["conv"](h)
