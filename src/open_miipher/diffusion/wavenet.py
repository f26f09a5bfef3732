"""WaveNet as a backbone: dilated convolutions, forward and backward in time (DiffWave)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.diffusion.backbone import (
    Backbone,
    BackboneConfig,
    First,
    Last,
    MelUpsample,
    convolution,
)


@dataclass
class WaveNetConfig(BackboneConfig):
    """Sizes; the defaults are those of SC09 (Kong et al. 2021).

    Attributes:
        res_channels: width of the layers.
        skip_channels: width of what each gives to the end.
        num_res_layers: layers.
        dilation_cycle: layers after which the dilation, 1, 2, 4 …, is 1 again.
    """

    res_channels: int = 256
    skip_channels: int = 256
    num_res_layers: int = 36
    dilation_cycle: int = 12


class WaveNet(Backbone):
    """Residual layers, the scaled sum of whose skips is the guess; see `Backbone`."""

    Config = WaveNetConfig

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__(config)
        self.first = First(config, config.res_channels)
        num_layers = config.num_res_layers
        self.layers = nn.ModuleList(
            ResidualLayer(config, 2 ** (n % config.dilation_cycle), is_last=n == num_layers - 1)
            for n in range(num_layers)
        )
        self.last = Last(config, config.skip_channels)

    def forward(self, x: Tensor, steps: Tensor, mel: Tensor | None = None) -> Tensor:
        """Guess the noise; see `Backbone.forward`."""
        step = self.step_embedding(steps)
        x = self.first(x)
        skips: Tensor | float = 0.0
        for layer in self.layers:
            x, skip = layer(x, step, mel)
            skips = skips + skip
        return self.last(skips * math.sqrt(1 / len(self.layers)))


class ResidualLayer(nn.Module):
    """One layer.

    Args:
        config: sizes.
        dilation: of its convolution.
        is_last: nothing follows but the end: it has no residual output.
    """

    def __init__(self, config: WaveNetConfig, dilation: int, is_last: bool) -> None:
        super().__init__()
        width = config.res_channels
        self.step = nn.Linear(config.diffusion_step_embed_dim_out, width)
        self.dilated = convolution(width, 2 * width, 3, dilation)
        self.residual = None if is_last else convolution(width, width)
        self.skip = convolution(width, config.skip_channels)
        if config.mel_bands is not None:
            self.upsample = MelUpsample(config.mel_upsample)
            self.mel = convolution(config.mel_bands, 2 * width)

    def forward(self, x: Tensor, step: Tensor, mel: Tensor | None) -> tuple[Tensor, Tensor]:
        """Transform one batch.

        Args:
            x: (batch, res_channels, samples).
            step: (batch, diffusion_step_embed_dim_out).
            mel: (batch, bands, frames), or None.

        Returns:
            (x + residual) / √2, and the skip: (batch, skip_channels, samples).
        """
        h = self.dilated(x + self.step(step)[..., None])
        if mel is not None:
            h = h + self.mel(self.upsample(mel)[..., : x.shape[-1]])
        filtered, gate = h.chunk(2, 1)
        h = torch.tanh(filtered) * torch.sigmoid(gate)
        skip: Tensor = self.skip(h)
        if self.residual is None:
            return x, skip
        return (x + self.residual(h)) * math.sqrt(0.5), skip
