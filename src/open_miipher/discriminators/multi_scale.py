"""MelGAN's discriminator: it judges the waveform at several sample rates."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.discriminators.convolution import convolution

NEGATIVE_SLOPE = 0.2
GROUP_WIDTH = 4  # input channels of each group in the strided convolutions


@dataclass
class MultiScaleConfig:
    """Sizes; the defaults are WaveFit's.

    Attributes:
        num_scales: sub-discriminators, each at half the rate of the one before.
        base_channels: channels after the first convolution; a multiple of 4.
        max_channels: the largest number of channels; a multiple of 4.
        num_layers: strided convolutions; each multiplies the channels by the stride.
        stride: stride of each of them.
    """

    num_scales: int = 3
    base_channels: int = 16
    max_channels: int = 1024
    num_layers: int = 4
    stride: int = 4


class MultiScaleDiscriminator(nn.Module):
    """Strided, grouped convolutions on the waveform and on averages of it.

    Kumar et al., "MelGAN" (NeurIPS 2019, arXiv 1910.06711), section 2.3. Weight normalisation, no
    statistics of the batch. The waveform is padded with zeros, so any length from 1 sample works.
    """

    Config = MultiScaleConfig

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        if config.base_channels % GROUP_WIDTH or config.max_channels % GROUP_WIDTH:
            raise UserError(
                f"the multi_scale discriminator's base_channels={config.base_channels} and "
                f"max_channels={config.max_channels} must be multiples of {GROUP_WIDTH}"
            )
        self.scales = nn.ModuleList(ScaleDiscriminator(config) for _ in range(config.num_scales))

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        """Judge waveforms.

        Args:
            waveform: (batch, samples).

        Returns:
            For each scale its feature maps (batch, channels, places), the logits last.
        """
        shortest = 2 ** (len(self.scales) - 1)
        x = functional.pad(waveform, (0, max(0, shortest - waveform.shape[1])))[:, None]
        maps = [self.scales[0](x)]
        for scale in self.scales[1:]:
            x = functional.avg_pool1d(x, 4, stride=2, padding=1, count_include_pad=False)
            maps.append(scale(x))
        return maps


class ScaleDiscriminator(nn.Module):
    """One scale: (batch, 1, samples) -> feature maps, logits last."""

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        width = config.base_channels
        kernel_size = 10 * config.stride + 1
        self.convolutions = nn.ModuleList([convolution(1, width, kernel_size=15, is_first=True)])
        for _ in range(config.num_layers):
            width_in, width = width, min(width * config.stride, config.max_channels)
            groups = width_in // GROUP_WIDTH
            self.convolutions.append(
                convolution(width_in, width, kernel_size, config.stride, groups)
            )
        width_in, width = width, min(2 * width, config.max_channels)
        self.convolutions.append(convolution(width_in, width, kernel_size=5))
        self.to_logits = convolution(width, 1, kernel_size=3)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, 1, samples) -> maps (batch, channels, places)."""
        maps = []
        for layer in self.convolutions:
            x = functional.leaky_relu(layer(x), NEGATIVE_SLOPE)
            maps.append(x)
        return [*maps, self.to_logits(x)]
