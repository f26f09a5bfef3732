"""HiFi-GAN's multi-period discriminator: it judges every p-th sample together."""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.discriminators.convolution import convolution

NEGATIVE_SLOPE = 0.1


@dataclass
class MultiPeriodConfig:
    """Sizes; the defaults are HiFi-GAN's channels with the periods of the Miipher-2 clones.

    Attributes:
        periods: one sub-discriminator for each.
        channels: channels after each convolution.
        kernel_size: size of the convolutions, odd.
        stride: stride of all convolutions but the last, counted in every p-th sample.
    """

    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11, 13, 17, 19])
    channels: list[int] = field(default_factory=lambda: [32, 128, 512, 1024, 1024])
    kernel_size: int = 5
    stride: int = 3


class MultiPeriodDiscriminator(nn.Module):
    """Kong et al., "HiFi-GAN" (NeurIPS 2020, arXiv 2010.05646), section 2.3.

    Weight normalisation, no statistics of the batch. The end is padded with zeros to whole periods,
    so any length from 1 sample works.
    """

    Config = MultiPeriodConfig

    def __init__(self, config: MultiPeriodConfig) -> None:
        super().__init__()
        if min(config.periods, default=0) < 1 or config.kernel_size % 2 == 0:
            raise UserError(
                f"the multi_period discriminator's periods={config.periods} must each be at least "
                f"1, and its kernel_size={config.kernel_size} odd"
            )
        self.periods = nn.ModuleList(
            PeriodDiscriminator(period, config) for period in config.periods
        )

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        """Judge waveforms.

        Args:
            waveform: (batch, samples).

        Returns:
            For each period its feature maps (batch, phases, channels, places), the logits last.
        """
        return [period(waveform) for period in self.periods]


class PeriodDiscriminator(nn.Module):
    """One period; all its phases go through the same one-dimensional convolutions.

    They equal the paper's two-dimensional convolutions of width 1, in a layout that runs faster.
    """

    def __init__(self, period: int, config: MultiPeriodConfig) -> None:
        super().__init__()
        self.period = period
        widths = [1, *config.channels]
        strides = [config.stride] * (len(config.channels) - 1) + [1]
        self.convolutions = nn.ModuleList(
            convolution(width_in, width, config.kernel_size, stride, is_first=width_in == 1)
            for width_in, width, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.to_logits = convolution(widths[-1], 1, kernel_size=3)

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """(batch, samples) -> maps (batch, period, channels, places)."""
        batch, num_samples = waveform.shape
        padded = functional.pad(waveform, (0, -num_samples % self.period))
        phases = padded.unflatten(1, (-1, self.period)).transpose(1, 2)
        x = phases.reshape(batch * self.period, 1, -1)
        maps = []
        for layer in self.convolutions:
            x = functional.leaky_relu(layer(x), NEGATIVE_SLOPE)
            maps.append(x)
        return [x.unflatten(0, (batch, self.period)) for x in [*maps, self.to_logits(x)]]
