"""WaveNeXt 2: WaveFit's iterations by ConvNeXt networks that work on frames, not on samples.

Zhou et al., "WaveNeXt 2" (ICASSP 2026, arXiv 2605.25506), in its form for adversarial training:
y ← y - F_t(y, c), with a network of its own for every t. A network sees the short-time Fourier
transform of y beside the features, and ends in a linear map from each frame to the samples of its
hop. The blocks are those of Vocos (Siuzdak, ICLR 2024, arXiv 2306.00814).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.audio import fourier
from open_miipher.base.errors import report
from open_miipher.base.precision import as_stored, in_float32, stay_in_float32
from open_miipher.vocoders.base import see_ends
from open_miipher.vocoders.wavefit import FixedPoint, IterationConfig


@dataclass
class FrameNetworkConfig:
    """Sizes of the network of one iteration; the defaults are the paper's.

    The paper does not print the transform's size. With 480, five networks have the 74.93 million
    parameters that it prints.

    Attributes:
        hop_length: samples per frame.
        n_fft: samples of the transform and of its Hann window; even, above the hop.
        condition_channels: values per frame that a convolution makes of the features; None: the
            features, as they are.
        width: channels of the blocks.
        feed_forward_width: channels within a block.
        num_blocks: of each network.
        kernel_size: frames of the convolutions, odd.
    """

    hop_length: int = 300
    n_fft: int = 480
    condition_channels: int | None = None
    width: int = 512
    feed_forward_width: int = 1536
    num_blocks: int = 8
    kernel_size: int = 7

    def __post_init__(self) -> None:
        """Check that the sizes fit together.

        Raises:
            UserError: they do not.
        """
        problems = []
        names = ("hop_length", "condition_channels", "width", "feed_forward_width", "num_blocks")
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"generator.{name}={value} must be at least 1")
        if self.n_fft % 2 or self.n_fft <= self.hop_length:
            problems.append(
                f"generator.n_fft={self.n_fft} must be even and above generator.hop_length="
                f"{self.hop_length}, or the network misses samples between its windows"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            problems.append(f"generator.kernel_size={self.kernel_size} must be odd")
        report(problems)


@dataclass
class WaveNeXt2Config(IterationConfig):
    """Sizes and iterations of a WaveNeXt 2.

    Attributes:
        gain: as WaveFit's, or `none`, the paper's for log-mel features: the losses alone teach the
            level.
        start: the first iteration is given `noise`, as WaveFit's is, or `zeros`, as in the paper.
        generator: the networks, one for each iteration.
    """

    gain: Literal["peak", "power", "none"] = "peak"
    start: Literal["noise", "zeros"] = "noise"
    generator: FrameNetworkConfig = field(default_factory=FrameNetworkConfig)


class WaveNeXt2(FixedPoint):
    """The iterations of ConvNeXt networks, one for each."""

    Config = WaveNeXt2Config

    def __init__(self, feature_width: int, frame_rate: float, config: WaveNeXt2Config) -> None:
        """Make a vocoder for features of a given kind; see `FixedPoint`."""
        sizes = config.generator
        own = (sizes.hop_length, sizes.condition_channels)
        super().__init__(feature_width, frame_rate, config, *own)
        self.needs_noise = config.start == "noise"
        if config.griffin_lim_steps and not self.needs_noise:
            report(["the vocoder's griffin_lim_steps need start=noise"])
        condition_width = sizes.condition_channels or feature_width
        self.generator = FrameNetworks(sizes, condition_width, config.num_iterations)


class FrameNetworks(nn.Module):
    """F_t(y, c) for t = T … 1: the part of the waveform y that is not speech.

    Frame k of the transform is centred on sample (k + 1/2) · hop_length and sees zeros outside the
    waveform.
    """

    window: Tensor

    def __init__(self, config: FrameNetworkConfig, condition_width: int, count: int) -> None:
        super().__init__()
        self.config = config
        self.networks = nn.ModuleList(FrameNetwork(config, condition_width) for _ in range(count))
        see_ends(self.networks, 1)
        window = torch.hann_window(config.n_fft)
        # White noise of variance 1 has power 1 in every bin.
        self.register_buffer("window", window / window.norm(), persistent=False)

    def forward(self, waveform: Tensor, condition: Tensor, step: int) -> Tensor:
        """Predict the part to subtract.

        Args:
            waveform: (batch, frames · hop_length).
            condition: (batch, condition_width, frames).
            step: number of the iteration, T … 1.

        Returns:
            (batch, frames · hop_length) float32.
        """
        with in_float32(waveform.device):  # what is rounded here is heard above 8 kHz
            spectrum = self.spectrum(waveform.float())
        predicted: Tensor = self.networks[step - 1](spectrum, condition)
        return predicted

    def spectrum(self, waveform: Tensor) -> Tensor:
        """(batch, frames · hop) -> real, then imaginary parts, (batch, n_fft + 2, frames)."""
        n_fft, hop = self.config.n_fft, self.config.hop_length
        before = (n_fft - hop) // 2
        padded = functional.pad(waveform, (before, n_fft - hop - before))
        bins = fourier.rfft(padded.unfold(-1, n_fft, hop) * self.window, n_fft)
        return torch.cat([bins.real, bins.imag], dim=2).mT


class FrameNetwork(nn.Module):
    """The network of one iteration."""

    def __init__(self, config: FrameNetworkConfig, condition_width: int) -> None:
        super().__init__()
        size, width = config.kernel_size, config.width
        seen = config.n_fft + 2 + condition_width
        self.embed = nn.Conv1d(seen, width, size, padding=size // 2)
        self.first_norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(config) for _ in range(config.num_blocks)))
        self.last_norm = nn.LayerNorm(width)
        self.to_samples = nn.Linear(width, config.hop_length, bias=False)
        stay_in_float32(self.embed, self.first_norm, self.last_norm, self.to_samples)
        # As in WaveFit, a network removes nearly nothing at first: see `UNet`.
        with torch.no_grad():
            self.to_samples.weight.mul_(0.01)

    def forward(self, spectrum: Tensor, condition: Tensor) -> Tensor:
        """Spectrum and condition, (batch, …, frames) -> (batch, frames · hop) float32."""
        with in_float32(spectrum.device):
            x = self.first_norm(self.embed(torch.cat([spectrum, condition.float()], dim=1)).mT)
        x = self.blocks(as_stored(x, self.blocks))
        with in_float32(spectrum.device):
            samples: Tensor = self.to_samples(self.last_norm(x.float()))
        return samples.flatten(1)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, wider linear, GELU and linear back, added to the input."""

    def __init__(self, config: FrameNetworkConfig) -> None:
        super().__init__()
        size, width = config.kernel_size, config.width
        self.depthwise = nn.Conv1d(width, width, size, padding=size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.feed_forward_width)
        self.narrow = nn.Linear(config.feed_forward_width, width)
        self.scale = nn.Parameter(torch.full((width,), 1 / config.num_blocks))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, width) -> the same."""
        inner = self.norm(self.depthwise(x.mT).mT)
        inner = self.narrow(functional.gelu(self.widen(inner)))
        return x + self.scale * inner
