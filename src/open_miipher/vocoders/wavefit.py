"""WaveFit: a vocoder that removes noise from a waveform in a fixed number of iterations.

Koizumi et al., "WaveFit" (SLT 2022, arXiv 2210.01029), with the changes of Karita et al.,
"Miipher-2" (WASPAA 2025, arXiv 2505.04457) for features that carry no power. WaveNeXt 2 iterates in
the same way with another network (`wavenext2`).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from open_miipher.audio.mel import MelConfig
from open_miipher.base.errors import report
from open_miipher.base.precision import as_stored, in_float32
from open_miipher.encoders.base import frame_mask
from open_miipher.layers.conformer import ConformerBlock
from open_miipher.layers.pointwise import fuse
from open_miipher.vocoders.base import AdversarialGenerator, CropPieces, ending, see_ends
from open_miipher.vocoders.gain import NoGain, PeakGain, PowerGain
from open_miipher.vocoders.wavegrad import UNet, UNetConfig, repeat


@dataclass
class PreNetConfig:
    """Conformer blocks between the features and the generator.

    Attributes:
        num_blocks: 0 for none.
        num_heads: attention heads; the feature width must be a multiple.
        kernel_size: frames under the convolution, odd.
        feed_forward_factor: hidden width of the feed-forward modules over the feature width.
        rate: run at the rate of the `features` or after they are `upsampled`, at that many times
            the cost.
    """

    num_blocks: int = 0
    num_heads: int = 8
    kernel_size: int = 5
    feed_forward_factor: int = 4
    rate: Literal["features", "upsampled"] = "features"


@dataclass
class IterationConfig:
    """How a vocoder iterates; samples per feature frame are `upsample_factor` x its network's hop.

    Attributes:
        sample_rate: of the waveform, in Hz.
        num_iterations: T.
        gain: `peak` scales each output to peak 0.9, for features without power; `power` gives it
            the power in the log-mel, and shapes the first noise by it.
        mel: of the log-mel features; left out for `gain: peak`.
        griffin_lim_steps: from the shaped noise towards the log-mel before the first iteration, for
            features that have a `mel`. The paper takes none; a few let a small model start near
            speech.
        upsample: how features reach the network's frame rate.
        upsample_factor: the network's frames per feature frame (25 → 100 Hz is 4).
        pre_net: conformer blocks ahead of the network.
        gradient_checkpointing: recompute the network in the backward pass, to save memory.
    """

    sample_rate: int = 24000
    num_iterations: int = 5
    gain: str = "peak"
    mel: MelConfig | None = None
    griffin_lim_steps: int = 0
    upsample: Literal["repeat", "linear"] = "repeat"
    upsample_factor: int = 1
    pre_net: PreNetConfig = field(default_factory=PreNetConfig)
    gradient_checkpointing: bool = False


@dataclass
class WaveFitConfig(IterationConfig):
    """Sizes of a WaveFit.

    Attributes:
        generator: the U-net.
    """

    gain: Literal["peak", "power"] = "peak"
    generator: UNetConfig = field(default_factory=UNetConfig)


class FixedPoint(AdversarialGenerator):
    """Fixed-point iterations z = y - F(y, c, t), y ← G(z) from noise to speech.

    Attributes:
        generator: F, called with y, (batch, samples), c, (batch, condition_channels, frames), and
            t, T … 1; a subclass makes it.
    """

    needs_noise = True
    generator: nn.Module

    def __init__(
        self,
        feature_width: int,
        frame_rate: float,
        config: IterationConfig,
        hop_length: int,
        condition_channels: int | None,
    ) -> None:
        """Make all but the generator.

        Args:
            feature_width: values per feature frame.
            frame_rate: feature frames per second.
            config: of the iterations.
            hop_length: samples per frame of the generator.
            condition_channels: values per frame that the generator sees; None: the features, as
                they are.

        Raises:
            UserError: the features do not fit the configuration.
        """
        super().__init__()
        self.sample_rate = config.sample_rate
        self.hop_length = config.upsample_factor * hop_length
        _check(config, feature_width, frame_rate, hop_length)
        self.config, self.mel = config, config.mel
        if config.mel is None:
            self.gain: PeakGain | PowerGain = PeakGain()
        else:
            of_log_mels = NoGain if config.gain == "none" else PowerGain
            self.gain = of_log_mels(config.mel, config.griffin_lim_steps)
        self.restores_level = self.gain.restores_level
        pre_net = config.pre_net
        self.pre_net = nn.Sequential(
            *(
                ConformerBlock(
                    feature_width,
                    pre_net.num_heads,
                    pre_net.kernel_size,
                    pre_net.feed_forward_factor * feature_width,
                )
                for _ in range(pre_net.num_blocks)
            )
        )
        self.to_condition = (
            nn.Identity()
            if condition_channels is None
            else nn.Conv1d(feature_width, condition_channels, 3, padding=1)
        )
        see_ends(self.to_condition, 1)

    def forward(
        self,
        features: Tensor,
        noise: Tensor,
        pieces: CropPieces | None = None,
        frame_lengths: Tensor | None = None,
    ) -> list[Tensor]:
        """Vocode for training; `y` is detached between iterations (WaveFit, section 4.2).

        The pre-net sees whole crops, since its attention does so when it restores; the iterations
        see the pieces.

        Args:
            features: (crops, frames, feature_width).
            noise: (pieces, samples of a piece), standard normal; anything if it needs none.
            pieces: of the crops, to speak; None: each as a whole.
            frame_lengths: see `Vocoder.generate`; without pieces alone.

        Returns:
            T waveforms (pieces, samples of a piece) float32, the final one last.

        Raises:
            ValueError: the noise is not as long as the features ask.
        """
        if frame_lengths is None:
            return self._iterate(features, noise, pieces, None)
        mask = frame_mask(frame_lengths, features.shape[1])
        missing = features.shape[1] - frame_lengths
        with ending(missing * self.config.upsample_factor):
            return self._iterate(features, noise, None, mask)

    def _iterate(
        self, features: Tensor, noise: Tensor, pieces: CropPieces | None, mask: Tensor | None
    ) -> list[Tensor]:
        """See `forward`; mask (batch, frames) of the valid frames."""
        condition = self._condition(features, mask)
        heard = None if mask is None else mask.repeat_interleave(self.hop_length, dim=1)
        if pieces is not None:
            # What stands beyond a crop's end decides no peak, and is heard by no convolution.
            heard = pieces.mask
            frames = condition.transpose(1, 2)
            condition = pieces.of(frames, self.config.upsample_factor).transpose(1, 2)
            features = pieces.of(features)
        if noise.shape != (features.shape[0], features.shape[1] * self.hop_length):
            raise ValueError(f"noise {tuple(noise.shape)} for features {tuple(features.shape)}")
        # Levels and filters need float32 whatever the network runs in.
        with in_float32(features.device):
            levels = self.gain.levels(features.float(), mask)
            noise = noise.float() if mask is None else noise.float() * heard
            waveform = (
                self.gain.start(noise, features.float(), mask)
                if self.needs_noise
                else torch.zeros_like(noise)
            )
            if pieces is not None and not self.restores_level:
                levels = pieces.peaks
            if heard is not None:
                waveform = waveform * heard
        outputs = []
        for step in range(self.config.num_iterations, 0, -1):
            waveform = waveform.detach()
            residual = self._residual(waveform / self.gain.scale, condition, step)
            with in_float32(features.device):
                cleaner = waveform - self.gain.scale * residual.float()
                waveform = self.gain(cleaner if heard is None else cleaner * heard, levels, mask)
            outputs.append(waveform)
        return outputs

    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """Return clean speech as it is or, with gain `peak`, as `at_peak_of` has it."""
        return self.gain.target(clean, whole)

    def _condition(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, frames, feature_width) -> (batch, condition_channels, generator frames)."""
        if self.config.mel is not None:
            # The floor becomes 0, as is the padding of the convolutions; magnitude 1 becomes 1.
            features = 1 - features / math.log(self.config.mel.floor)
        features = as_stored(features, self.to_condition)
        if self.config.pre_net.rate == "features":
            features = self._pre_net(features, mask)
        x = self._upsample(features.transpose(1, 2), mask)
        if self.config.pre_net.rate == "upsampled":
            factor = self.config.upsample_factor
            mask = None if mask is None else mask.repeat_interleave(factor, dim=1)
            x = self._pre_net(x.transpose(1, 2), mask).transpose(1, 2)
        return self.to_condition(x)

    def _pre_net(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.pre_net:
            x = block(x, mask)
        return x

    def _upsample(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, width, frames) -> (batch, width, frames * upsample_factor)."""
        if self.config.upsample == "repeat":
            return repeat(x, self.config.upsample_factor)
        if mask is not None:  # beyond its end, a clip goes on as it ended
            places = torch.arange(x.shape[2], device=x.device)
            last = torch.minimum(places, mask.sum(1, keepdim=True) - 1)
            x = x.gather(2, last[:, None].expand_as(x))
        return interpolate(x, self.config.upsample_factor)

    def _residual(self, waveform: Tensor, condition: Tensor, step: int) -> Tensor:
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(
                self.generator,
                waveform,
                condition,
                step,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing in a generator is random
            )
        return self.generator(waveform, condition, step)


class WaveFit(FixedPoint):
    """The iterations of a WaveGrad U-net."""

    Config = WaveFitConfig

    def __init__(self, feature_width: int, frame_rate: float, config: WaveFitConfig) -> None:
        """Make a vocoder for features of a given kind; see `FixedPoint`."""
        sizes = config.generator
        own = (sizes.hop_length, sizes.condition_channels)
        super().__init__(feature_width, frame_rate, config, *own)
        self.generator = UNet(sizes)

    def merge(self, on_gpu: bool) -> None:
        """See `UNet.merge`."""
        if on_gpu:
            fuse(self.generator)
        self.generator.merge(on_gpu)


def interpolate(x: Tensor, factor: int) -> Tensor:
    """Straight lines between frame centres, constant beyond the outer ones.

    Equal to `functional.interpolate(mode="linear")`, whose backward pass on GPUs is not
    deterministic.

    Args:
        x: (batch, width, frames).
        factor: new frames per frame.

    Returns:
        (batch, width, frames * factor).
    """
    padded = functional.pad(x, (1, 1), mode="replicate")
    before, after = padded[..., :-2, None], padded[..., 2:, None]
    here = x[..., None]
    offsets = (torch.arange(factor, device=x.device, dtype=x.dtype) + 0.5) / factor - 0.5
    lines = here + offsets.clamp_min(0) * (after - here) - offsets.clamp_max(0) * (before - here)
    return lines.flatten(-2)


def _check(config: IterationConfig, feature_width: int, frame_rate: float, hop: int) -> None:
    """Check sizes against the features; hop: samples per frame of the generator."""
    problems = []
    hop_length = config.upsample_factor * hop
    if abs(config.sample_rate / frame_rate - hop_length) > 1e-6 * hop_length:
        problems.append(
            f"the vocoder makes {hop_length} samples per feature frame (upsample_factor="
            f"{config.upsample_factor} x its generator's hop of {hop}), but {frame_rate:g} "
            f"frames/s at sample_rate {config.sample_rate} need "
            f"{config.sample_rate / frame_rate:g}"
        )
    if (config.gain == "peak") == (config.mel is not None):
        problems.append(
            f"the vocoder's gain={config.gain} "
            + ("has no key mel" if config.gain == "peak" else "needs the key mel")
        )
    if config.mel is not None:
        mel = config.mel
        if (mel.n_mels, mel.hop_length, mel.sample_rate) != (
            feature_width,
            hop_length,
            config.sample_rate,
        ):
            problems.append(
                f"the vocoder's mel ({mel.n_mels} bands, hop {mel.hop_length} at "
                f"{mel.sample_rate} Hz) is not that of the features ({feature_width} values, hop "
                f"{hop_length} at {config.sample_rate} Hz)"
            )
    if config.griffin_lim_steps and config.gain == "peak":
        problems.append("the vocoder's griffin_lim_steps need the key mel, as gain=power has")
    if config.num_iterations < 1 or config.upsample_factor < 1:
        problems.append("the vocoder's num_iterations and upsample_factor must be at least 1")
    if config.pre_net.num_blocks and feature_width % config.pre_net.num_heads:
        problems.append(
            f"the vocoder's pre_net.num_heads={config.pre_net.num_heads} must divide the "
            f"{feature_width} values of a feature frame"
        )
    report(problems)
