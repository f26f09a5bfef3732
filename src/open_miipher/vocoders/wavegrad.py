"""WaveGrad's U-net, the network that WaveFit applies in each iteration.

Chen et al., "WaveGrad" (ICLR 2021, arXiv 2009.00713), Fig. 2-5, base size. The way down brings the
waveform to lower and lower rates. The way up brings the features to the waveform's rate. Where both
have the same rate, feature-wise linear modulation (FiLM) joins them.
"""

import math
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import report
from open_miipher.base.precision import as_stored, in_float32, stay_in_float32
from open_miipher.layers.pointwise import Pointwise
from open_miipher.vocoders.base import see_ends

NEGATIVE_SLOPE = 0.2
DOWN_DILATIONS = (1, 2, 4)


@dataclass
class UNetConfig:
    """Sizes of the U-net; the defaults are WaveGrad-Base for a hop of 300.

    Attributes:
        condition_channels: width of the features after the first convolution.
        stem_channels: width of the waveform after the first convolution.
        down_channels: channels of the blocks on the way down, one block fewer than on the way up.
        up_channels: channels of the blocks on the way up.
        up_factors: factor by which each block on the way up raises the rate.
        dilations: dilations of the four convolutions in each block on the way up.
        full_rate_film: False leaves out the FiLM at the waveform's own rate, which has the longest
            tensors, to save memory.
        fold: number of samples that become channels of one place, so that the highest rate of the
            network is the sample rate divided by `fold`. 1 is WaveGrad; larger is cheaper.
    """

    condition_channels: int = 768
    stem_channels: int = 32
    down_channels: list[int] = field(default_factory=lambda: [128, 128, 256, 512])
    up_channels: list[int] = field(default_factory=lambda: [512, 512, 256, 128, 128])
    up_factors: list[int] = field(default_factory=lambda: [5, 5, 3, 2, 2])
    dilations: list[list[int]] = field(
        default_factory=lambda: [[1, 2, 4, 8]] * 3 + [[1, 2, 1, 2]] * 2
    )
    full_rate_film: bool = True
    fold: int = 1

    def __post_init__(self) -> None:
        """Check that the sizes fit together.

        Raises:
            UserError: they do not.
        """
        blocks = len(self.up_factors)
        problems = []
        if blocks < 2:
            problems.append("generator.up_factors needs at least two blocks")
        if (
            not len(self.up_channels)
            == len(self.dilations)
            == len(self.down_channels) + 1
            == blocks
        ):
            problems.append(
                f"generator.up_channels and generator.dilations need {blocks} entries, as "
                f"up_factors has, and generator.down_channels {blocks - 1}"
            )
        if any(len(dilations) != 4 for dilations in self.dilations):
            problems.append("each entry of generator.dilations needs 4 numbers")
        widths = [self.stem_channels, *self.down_channels]
        if any(width % 2 for width in widths):
            problems.append(f"generator.stem_channels and down_channels must be even: {widths}")
        if min([self.fold, *self.up_factors]) < 1:
            problems.append("generator.fold and generator.up_factors must be at least 1")
        report(problems)

    @property
    def hop_length(self) -> int:
        """Samples per frame of the condition."""
        return self.fold * math.prod(self.up_factors)


class UNet(nn.Module):
    """F(y, c, t): the part of the waveform y that is not speech, given the condition c."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.fold = config.fold
        down_widths = [config.stem_channels, *config.down_channels]
        up_widths = [config.condition_channels, *config.up_channels]
        self.stem = _convolution(config.fold, config.stem_channels, 5)
        self.down_blocks = nn.ModuleList(
            DownBlock(width_in, width_out, factor)
            for width_in, width_out, factor in zip(
                down_widths[:-1], down_widths[1:], config.up_factors[:0:-1], strict=True
            )
        )
        # Each level of the way down modulates the block of the way up whose output has its rate.
        levels = list(zip(down_widths, config.up_channels[::-1], strict=True))
        self.first_film = 0 if config.full_rate_film else 1
        self.films = nn.ModuleList(FiLM(*widths) for widths in levels[self.first_film :])
        self.up_blocks = nn.ModuleList(
            UpBlock(width_in, width_out, factor, dilations)
            for width_in, width_out, factor, dilations in zip(
                up_widths[:-1], up_widths[1:], config.up_factors, config.dilations, strict=True
            )
        )
        self.last = _convolution(config.up_channels[-1], config.fold, 3)
        stay_in_float32(self.stem, self.last)
        self._know_ends(list(accumulate(config.up_factors, mul)))
        # At first the network removes nearly nothing: with features that carry power, the start
        # already has the envelope of the speech, which a random network would destroy.
        with torch.no_grad():
            self.last.weight.mul_(0.01)
            self.last.bias.zero_()

    def forward(self, waveform: Tensor, condition: Tensor, step: int) -> Tensor:
        """Predict the part to subtract.

        Args:
            waveform: (batch, frames * hop_length).
            condition: (batch, condition_channels, frames).
            step: number of the iteration, T … 1.

        Returns:
            (batch, frames * hop_length).
        """
        x = waveform.unflatten(1, (-1, self.fold)).transpose(1, 2)
        with in_float32(x.device):  # what is rounded here is heard above 8 kHz
            stem = self.stem(x.float())
        levels = [as_stored(stem, self.down_blocks)]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        films = [
            film(x, step) for film, x in zip(self.films, levels[self.first_film :], strict=True)
        ]
        x, shortcut = condition, None
        for block in self.up_blocks:
            x, shortcut = block(x, shortcut, films.pop() if films else None)
        with in_float32(x.device):
            return self.last((shortcut + x).float()).transpose(1, 2).flatten(1)

    def merge(self, on_gpu: bool) -> None:
        """Take the fastest form: on a GPU, activations add the biases; see `Vocoder.merge`."""
        for up_block in self.up_blocks:
            up_block.convolutions[0].merge()
        if not on_gpu:
            return
        before: nn.Conv1d | None = None
        for up_block in self.up_blocks:
            if before is not None:
                up_block.activations[0].take_bias(before)
            _give_biases(up_block)
            before = up_block.convolutions[-1]
        for down_block in self.down_blocks:
            _give_biases(down_block)
        for film in self.films:
            film.activation.take_bias(film.first)

    def _know_ends(self, rates: list[int]) -> None:
        """Tell the convolutions their rates: places per frame of the condition, from the lowest."""
        see_ends(self.stem, rates[-1])
        see_ends(self.last, rates[-1])
        for up_block, rate in zip(self.up_blocks, rates, strict=True):
            see_ends(up_block.convolutions[0], rate // up_block.factor)
            see_ends(up_block.convolutions[1:], rate)
        for down_block, rate in zip(self.down_blocks, rates[-2::-1], strict=True):
            see_ends(down_block, rate)
        for film, rate in zip(self.films, rates[::-1][self.first_film :], strict=True):
            see_ends(film, rate)


class DownBlock(nn.Module):
    """Lowers the rate by taking every factor-th sample; then three dilated convolutions."""

    def __init__(self, width_in: int, width_out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.shortcut = _convolution(width_in, width_out, 1)
        widths = [width_in, width_out, width_out]
        self.convolutions = nn.ModuleList(
            _convolution(width, width_out, 3, dilation)
            for width, dilation in zip(widths, DOWN_DILATIONS, strict=True)
        )
        self.activations = _activations(len(self.convolutions))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width_in, frames * factor) -> (batch, width_out, frames)."""
        # The paper lowers the rate after the shortcut's 1x1; doing it before is equal and cheaper.
        x = x[..., :: self.factor]
        shortcut = self.shortcut(x)
        for activation, convolution in zip(self.activations, self.convolutions, strict=True):
            x = convolution(activation(x))
        return x + shortcut


class FiLM(nn.Module):
    """Scale and shift for one level of the way up, from the waveform and the iteration's number."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first = _convolution(width_in, width_in, 3)
        self.activation = Pointwise(slope=NEGATIVE_SLOPE)
        self.second = _convolution(width_in, 2 * width_out, 3)
        # Modulation starts as the identity: a scale near 0 would block the path from the features.
        nn.init.ones_(self.second.bias[:width_out])

    def forward(self, x: Tensor, step: int) -> Tensor:
        """(batch, width_in, frames) -> scale, then shift, (batch, 2 · width_out, frames)."""
        x = self.activation(self.first(x))
        x = x + step_embedding(step, x.shape[1], x.device).to(x.dtype)[:, None]
        scale_and_shift: Tensor = self.second(x)
        return scale_and_shift


class UpBlock(nn.Module):
    """Raises the rate by repetition; four dilated convolutions, FiLM before the last three."""

    def __init__(self, width_in: int, width_out: int, factor: int, dilations: list[int]) -> None:
        super().__init__()
        self.factor = factor
        self.shortcut = _convolution(width_in, width_out, 1)
        raising = Raising(width_in, width_out, factor, dilations[0])
        others = (_convolution(width_out, width_out, 3, dilation) for dilation in dilations[1:])
        self.convolutions = nn.ModuleList([raising, *others])
        self.activations = _activations(len(self.convolutions))

    def forward(
        self, x: Tensor, shortcut: Tensor | None, film: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(batch, width_in, frames) -> (batch, width_out, frames * factor).

        Input and output are sums of two, whose addition is left to what comes next.

        Args:
            x: the last convolution of the block before.
            shortcut: past it; None: x is all.
            film: (batch, 2 · width_out, frames * factor) of a `FiLM`; None: nothing is modulated.
        """
        # Pointwise steps come before the repetition: the result is equal and needs less work.
        total, x = self.activations[0].with_sum(x, shortcut)
        shortcut = repeat(self.shortcut(total), self.factor)
        x = self.convolutions[0](x)
        x = self.convolutions[1](self.activations[1](x, None, film))
        shortcut, x = self.activations[2].with_sum(x, shortcut, film)
        x = self.activations[3](self.convolutions[2](x), None, film)
        return self.convolutions[3](x), shortcut


class Raising(nn.Conv1d):
    """A convolution of three taps after each frame is repeated `factor` times."""

    weight: Tensor

    def __init__(self, width_in: int, width_out: int, factor: int, dilation: int) -> None:
        super().__init__(width_in, width_out, 3, dilation=dilation, padding=dilation)
        self.factor, self.num_kinds = factor, 0

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width_in, frames) -> (batch, width_out, frames * factor)."""
        if not self.num_kinds:
            return super().forward(repeat(x, self.factor))
        bias = None if self.bias is None else self.bias.repeat(self.num_kinds)
        kinds = functional.conv1d(x, self.weight, bias, padding=1)
        kinds = kinds.unflatten(1, (self.num_kinds, -1))
        first, last = kinds[:, 0, :, :-1], kinds[:, -1, :, 1:]
        between = [kinds[:, 1, :, :-1]] * (self.factor - 2)
        return torch.stack([first, *between, last], dim=3).flatten(2)

    def merge(self) -> None:
        """Multiply for each frame, not for each of its repetitions; see `Vocoder.merge`.

        At the first place of a frame, the taps see the frame before it and twice itself; at the
        last, twice itself and the next one; between them, itself alone. So there are three kinds of
        outputs, and for each of them two taps do.
        """
        if self.dilation != (1,) or self.factor < 2:
            return
        before, here, after = self.weight.detach().unbind(2)
        nothing = torch.zeros_like(here)
        kinds = [(before, here + after), (nothing, before + here + after), (before + here, after)]
        if self.factor == 2:
            del kinds[1]
        self.num_kinds = len(kinds)
        weight = torch.cat([torch.stack(taps, dim=2) for taps in kinds])
        self.weight = nn.Parameter(weight, requires_grad=False)


def repeat(x: Tensor, factor: int) -> Tensor:
    """Repeat each frame: (…, frames) -> (…, frames * factor)."""
    return x[..., None].expand(*x.shape, factor).flatten(-2)


def step_embedding(step: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the iteration's number at wavelengths from 2π to 2π·10⁴: (width,)."""
    exponents = torch.arange(width // 2, device=device) / (width // 2)
    angles = step * 10.0 ** (-4 * exponents)
    return torch.cat([angles.sin(), angles.cos()])


def _activations(count: int) -> nn.ModuleList:
    return nn.ModuleList(Pointwise(slope=NEGATIVE_SLOPE) for _ in range(count))


def _give_biases(block: UpBlock | DownBlock) -> None:
    for convolution, activation in zip(block.convolutions, block.activations[1:], strict=False):
        activation.take_bias(convolution)


def _convolution(width_in: int, width_out: int, kernel_size: int, dilation: int = 1) -> nn.Conv1d:
    padding = dilation * (kernel_size // 2)
    return nn.Conv1d(width_in, width_out, kernel_size, dilation=dilation, padding=padding)
