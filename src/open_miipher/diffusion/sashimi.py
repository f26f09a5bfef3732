"""SaShiMi as a backbone: state-space layers at several rates.

Goel et al., "It's Raw! Audio Generation with State-Space Models" (ICML 2022, arXiv 2202.09729).
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from open_miipher.diffusion.backbone import (
    Backbone,
    BackboneConfig,
    First,
    Last,
    MelUpsample,
    convolution,
)
from open_miipher.layers.ssm import S4D

_NORM_EPS = 1e-5


@dataclass
class SaShiMiConfig(BackboneConfig):
    """Sizes; the defaults are those of SC09 (Goel et al. 2022).

    Attributes:
        unet: layers on the way down too.
        d_model: width at the full rate.
        n_layers: of each stage, and of the middle.
        pool: samples that become one, from stage to stage.
        expand: growth of the width from stage to stage.
        ff: hidden width of the feed-forward modules, in widths.
    """

    unet: bool = True
    d_model: int = 128
    n_layers: int = 6
    pool: tuple[int, ...] = (4, 4)
    expand: int = 2
    ff: int = 2


class SaShiMi(Backbone):
    """A U-net: stages that pool, a middle, and the stages back; see `Backbone`.

    Lengths that do not divide by the product of the pools are padded with zeros, and cut again.
    """

    Config = SaShiMiConfig
    config: SaShiMiConfig

    def __init__(self, config: SaShiMiConfig) -> None:
        super().__init__(config)
        self.first = First(config, config.d_model)
        if config.mel_bands is not None:
            self.upsample = MelUpsample(config.mel_upsample)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.pools, self.unpools = nn.ModuleList(), nn.ModuleList()
        width = config.d_model
        for pool in config.pool:
            wider = width * config.expand
            self.down.append(_stage(config, width) if config.unet else nn.ModuleList())
            self.pools.append(convolution(width * pool, wider))
            self.unpools.insert(0, convolution(wider, width * pool))
            self.up.insert(0, _stage(config, width))
            width = wider
        self.middle = _stage(config, width)
        self.norm = Norm()
        self.last = Last(config, config.d_model)

    def forward(self, x: Tensor, steps: Tensor, mel: Tensor | None = None) -> Tensor:
        """Guess the noise; see `Backbone.forward`."""
        num_samples, product = x.shape[-1], math.prod(self.config.pool)
        x = functional.pad(x, (0, -num_samples % product))
        step = self.step_embedding(steps)
        mels = self.mels(mel, x.shape[-1])
        x = self.first(x)
        skips = []
        for pool, layers, pooling, own in zip(
            self.config.pool, self.down, self.pools, mels[:-1], strict=True
        ):
            for layer in layers:
                skips.append(x)
                x = layer(x, step, own)
            skips.append(x)
            x = pooling(_folded(x, pool))
        before = x
        for layer in self.middle:
            x = layer(x, step, mels[-1])
        x = x + before
        for pool, layers, unpooling, own in zip(
            reversed(self.config.pool), self.up, self.unpools, reversed(mels[:-1]), strict=True
        ):
            x = _unfolded(unpooling(x), pool) + skips.pop()
            for layer in layers:
                x = layer(x, step, own)
                if self.config.unet:
                    x = x + skips.pop()
        return self.last(self.norm(x))[..., :num_samples]

    def mels(self, mel: Tensor | None, num_samples: int) -> list[Tensor | None]:
        """Return the mel at the rate of every stage, averaged over what the stage pools.

        Args:
            mel: (batch, bands, frames), or None.
            num_samples: of the padded signal.

        Returns:
            (batch, bands, samples of the stage) each, from the full rate to the middle's.
        """
        if mel is None:
            return [None] * (len(self.config.pool) + 1)
        x = self.upsample(mel)[..., :num_samples]
        mels: list[Tensor | None] = [functional.pad(x, (0, num_samples - x.shape[-1]))]
        for pool in self.config.pool:
            mels.append(functional.avg_pool1d(mels[-1], pool))
        return mels

    @property
    def ssm_parameters(self) -> list[nn.Parameter]:
        """Parameters of the state-space layers."""
        return [p for m in self.modules() if isinstance(m, S4D) for p in m.ssm_parameters]

    @contextlib.contextmanager
    def unchanging(self) -> Iterator[None]:
        """Compute kernels and normalised weights once; see `Backbone.unchanging`."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().unchanging())
            for module in self.modules():
                if isinstance(module, S4D):
                    stack.enter_context(module.kept())
            yield


def _stage(config: SaShiMiConfig, width: int) -> nn.ModuleList:
    return nn.ModuleList(Block(config, width) for _ in range(config.n_layers))


def _folded(x: Tensor, pool: int) -> Tensor:
    """Put neighbours in time side by side: (batch, width, l · pool) -> (batch, width · pool, l)."""
    return x.unflatten(2, (-1, pool)).transpose(2, 3).flatten(1, 2)


def _unfolded(x: Tensor, pool: int) -> Tensor:
    """Undo `_folded`."""
    return x.unflatten(1, (-1, pool)).transpose(2, 3).flatten(2)


class Norm(nn.Module):
    """Standardise over the channels of each sample, with one scale and one shift for all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, samples) -> the same, float32."""
        normed: Tensor = _Standardised.apply(x.float(), self.scale, self.shift)
        return normed


class _Standardised(torch.autograd.Function):
    """What `Norm` does. Its backward looks at x a few times only: a third of autograd's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """(batch, width, samples), (1,), (1,) -> (batch, width, samples)."""
        standard = x - x.mean(1, keepdim=True)  # on a CPU ten times as fast as torch.var_mean
        inverse = torch.rsqrt(standard.square().mean(1, keepdim=True) + _NORM_EPS)
        standard = standard * inverse
        ctx.save_for_backward(standard, inverse, scale)
        return torch.addcmul(shift, standard, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leave out what a change of the mean, or of the deviation, would give."""
        standard, inverse, scale = ctx.saved_tensors
        along = (gradient * standard).mean(1, keepdim=True)
        mean = gradient.mean(1, keepdim=True)
        of_x = torch.addcmul(gradient - mean, standard, along, value=-1) * (inverse * scale)
        width = gradient.shape[1]
        return of_x, along.sum()[None] * width, mean.sum()[None] * width


class Block(nn.Module):
    """Norm, step, state-space layer, mel, residual; norm, feed-forward module, residual.

    Args:
        config: sizes.
        width: of the stage.
    """

    def __init__(self, config: SaShiMiConfig, width: int) -> None:
        super().__init__()
        self.norm, self.norm_ff = Norm(), Norm()
        self.step = nn.Linear(config.diffusion_step_embed_dim_out, width)
        self.ssm = S4D(width)
        self.mix = nn.Conv1d(width, 2 * width, 1)
        if config.mel_bands is not None:
            self.mel = convolution(config.mel_bands, width)
        self.ff = nn.Sequential(
            convolution(width, config.ff * width), nn.GELU(), convolution(config.ff * width, width)
        )

    def forward(self, x: Tensor, step: Tensor, mel: Tensor | None) -> Tensor:
        """Transform one batch.

        Args:
            x: (batch, width, samples).
            step: (batch, diffusion_step_embed_dim_out).
            mel: (batch, bands, samples), or None.

        Returns:
            (batch, width, samples).
        """
        h = self.ssm(self.norm(x) + self.step(step)[..., None])
        h = functional.glu(self.mix(functional.gelu(h)), 1)
        if mel is not None:
            h = h + self.mel(mel)
        x = x + h
        return x + self.ff(self.norm_ff(x))
