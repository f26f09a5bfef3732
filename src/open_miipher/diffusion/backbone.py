"""What every backbone of a diffusion is, and what the backbones share."""

import contextlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from open_miipher.base.errors import UserError, report
from open_miipher.base.precision import in_float32

_LEAST_DILATION = 8  # that is worth another layout
_LEAK = 0.4  # of the mel's upsampling


@dataclass
class BackboneConfig:
    """What both backbones have; the names are the field's.

    Attributes:
        in_channels: of the noisy signal.
        out_channels: of the guess; as many.
        diffusion_step_embed_dim_in: sines and cosines of the step.
        diffusion_step_embed_exponent: powers of ten that their frequencies rise by; −4 in the
            public code, whose weights need that.
        diffusion_step_embed_dim_mid: hidden width of their network.
        diffusion_step_embed_dim_out: width of what the layers are told.
        mel_bands: of the condition; None: unconditional.
        mel_upsample: factors from mel frames to samples; their product is the hop.
    """

    in_channels: int = 1
    out_channels: int = 1
    diffusion_step_embed_dim_in: int = 128
    diffusion_step_embed_dim_mid: int = 512
    diffusion_step_embed_dim_out: int = 512
    diffusion_step_embed_exponent: float = 4.0
    mel_bands: int | None = None
    mel_upsample: tuple[int, ...] = (16, 16)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range; the message lists all of them.
        """
        sizes = {
            name: size
            for name, value in vars(self).items()
            for size in (value if isinstance(value, tuple) else (value,))
            if type(size) is int
        }
        problems = [f"{name}={size} must be above 0" for name, size in sizes.items() if size < 1]
        if self.in_channels != self.out_channels:
            problems.append(
                f"out_channels={self.out_channels} must be in_channels={self.in_channels}: a "
                "backbone guesses the noise in what it hears"
            )
        if self.diffusion_step_embed_dim_in % 2 or self.diffusion_step_embed_dim_in < 4:
            problems.append("diffusion_step_embed_dim_in must be even, and at least 4")
        if any(factor % 2 for factor in self.mel_upsample):
            problems.append(f"mel_upsample={list(self.mel_upsample)} must be of even factors")
        report([f"model: {problem}" for problem in problems])


class Backbone(nn.Module, ABC):
    """Guesses the noise in a signal.

    Attributes:
        config: its sizes.
    """

    Config: ClassVar[type[BackboneConfig]]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.step_embedding = StepEmbedding(config)

    @abstractmethod
    def forward(self, x: Tensor, steps: Tensor, mel: Tensor | None = None) -> Tensor:
        """Guess the noise.

        Args:
            x: (batch, channels, samples), of any length.
            steps: (batch,) how noisy it is, among the steps of training; fractions too.
            mel: (batch, bands, frames) of a conditional backbone; it covers all samples.

        Returns:
            (batch, channels, samples) float32.
        """

    @property
    def ssm_parameters(self) -> list[nn.Parameter]:
        """Parameters of state-space layers, which have a learning rate of their own."""
        return []

    def unchanging(self) -> contextlib.AbstractContextManager[object]:
        """Inside the block no parameter changes: what follows from them alone is computed once."""
        return parametrize.cached()


def embed_steps(steps: Tensor, width: int, exponent: float = 4.0) -> Tensor:
    """Return sines and cosines of t · 10^{exponent · i / (width / 2 − 1)} (DiffWave, section 3.1).

    Args:
        steps: (batch,) t, fractions too.
        width: of the embedding: 128 in the paper, i = 0 … 63.
        exponent: 4 in the paper.

    Returns:
        (batch, width) float32: the sines, then the cosines.
    """
    half = width // 2
    exponents = exponent / (half - 1) * torch.arange(half, device=steps.device, dtype=torch.float64)
    angles = steps.double()[:, None] * 10.0**exponents  # up to 2·10⁶, too much for float32
    return torch.cat([angles.sin(), angles.cos()], 1).float()


class StepEmbedding(nn.Module):
    """The step as every layer is told: (batch,) -> (batch, diffusion_step_embed_dim_out)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.width = config.diffusion_step_embed_dim_in
        self.exponent = config.diffusion_step_embed_exponent
        mid, out = config.diffusion_step_embed_dim_mid, config.diffusion_step_embed_dim_out
        self.layers = nn.Sequential(
            nn.Linear(self.width, mid), nn.SiLU(), nn.Linear(mid, out), nn.SiLU()
        )

    def forward(self, steps: Tensor) -> Tensor:
        """Embed steps."""
        embedded: Tensor = self.layers(embed_steps(steps, self.width, self.exponent))
        return embedded


class Conv1d(nn.Conv1d):
    """A convolution that a CPU computes without its dilation, in two thirds of the time.

    Its kernel is odd and its padding keeps the length.

    With samples in rows of as many as the dilation, what a kernel hears lies in one column. Small
    dilations are left as they are, since rows of a few samples are slow.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels in, samples) -> (batch, channels out, samples)."""
        [dilation], num_samples = self.dilation, input.shape[-1]
        if input.device.type != "cpu" or dilation < _LEAST_DILATION or num_samples <= dilation:
            return super().forward(input)
        padded = nn.functional.pad(input, (0, -num_samples % dilation))
        columns = padded.unflatten(2, (-1, dilation))
        padding = (self.kernel_size[0] // 2, 0)
        convolved = nn.functional.conv2d(columns, self.weight[..., None], self.bias, 1, padding)
        return convolved.flatten(2)[..., :num_samples]


def convolution(
    width_in: int, width_out: int, kernel_size: int = 1, dilation: int = 1
) -> nn.Module:
    """Return a weight-normalised convolution that keeps the length, drawn as He et al. (2015)."""
    padding = dilation * (kernel_size - 1) // 2
    made = Conv1d(width_in, width_out, kernel_size, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(made.weight)
    return weight_norm(made)


class MelUpsample(nn.Module):
    """Mel frames to samples by transposed convolutions over bands and time (DiffWave, section 3.4).

    (batch, bands, frames) -> (batch, bands, frames · product of the factors). At the start they
    interpolate linearly: from random kernels, the condition takes thousands of steps to be heard.
    """

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for factor in factors:
            made = nn.ConvTranspose2d(
                1, 1, (3, 2 * factor), stride=(1, factor), padding=(1, factor // 2)
            )
            ramp = (torch.arange(factor) + 0.5) / factor
            nn.init.zeros_(made.weight)
            nn.init.zeros_(made.bias)
            with torch.no_grad():
                made.weight[0, 0, 1] = torch.cat([ramp, ramp.flip(0)])
            self.layers.append(weight_norm(made))

    def forward(self, mel: Tensor) -> Tensor:
        """Bring to the rate of samples."""
        x = mel
        for layer in self.layers:
            x = nn.functional.leaky_relu(_transposed(x, layer.weight, layer.bias), _LEAK)
        return x


def _transposed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Do what `nn.ConvTranspose2d` of `MelUpsample` does, as one product of matrices.

    A frame of the output hears 3 bands of 2 frames. PyTorch's own convolution of one channel takes
    several times as long on a CPU.

    Args:
        x: (batch, bands, frames).
        weight: (1, 1, 3, 2 · factor).
        bias: (1,).

    Returns:
        (batch, bands, frames · factor).
    """
    frames, factor = x.shape[-1], weight.shape[-1] // 2
    windows = nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 2, 1).unfold(1, 3, 1).flatten(3)
    kernel = weight[0, 0].flip(0).view(3, 2, factor).flip(1).transpose(0, 1).reshape(6, factor)
    full = (windows @ kernel + bias).flatten(2)
    return full[..., factor // 2 : factor // 2 + frames * factor]


class First(nn.Module):
    """The first layer: (batch, channels, samples) -> (batch, width, samples), in float32."""

    def __init__(self, config: BackboneConfig, width: int) -> None:
        super().__init__()
        self.layer = convolution(config.in_channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """Widen a signal."""
        with in_float32(x.device):
            return torch.relu(self.layer(x.float()))


class Last(nn.Module):
    """The last two layers: width to channels, in float32; their output is 0 at the start."""

    def __init__(self, config: BackboneConfig, width: int) -> None:
        super().__init__()
        self.hidden = convolution(width, width)
        self.out = nn.Conv1d(width, config.out_channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Narrow features to the guess."""
        x = torch.relu(self.hidden(x))
        with in_float32(x.device):
            guess: Tensor = self.out(x.float())
            return guess


def check_hop(config: BackboneConfig, hop_length: int) -> None:
    """Check that a conditional backbone makes one frame of every hop.

    Raises:
        UserError: its factors multiply to something else.
    """
    product = math.prod(config.mel_upsample)
    if config.mel_bands is not None and product != hop_length:
        factors = " × ".join(map(str, config.mel_upsample))
        raise UserError(
            f"model.mel_upsample gives {product} samples a frame ({factors}) but "
            f"model.mel.hop_length={hop_length}; make the product equal"
        )
