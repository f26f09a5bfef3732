"""From noise to sound, over any backbone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from open_miipher.base.noise import stream_keys, white_noise
from open_miipher.diffusion.backbone import Backbone
from open_miipher.diffusion.schedule import Descent, posterior_variances


def sample(
    backbone: Backbone,
    descent: Descent,
    items: Tensor,
    num_samples: int,
    seed: int,
    mel: Tensor | None = None,
) -> Tensor:
    """Take the noise away, step by step (ancestral sampling; Ho et al. 2020, algorithm 2).

    The noise of a sound depends on the seed and its item alone.

    Args:
        backbone: guesses noise; its parameters do not change meanwhile.
        descent: the steps.
        items: (batch,) int64, the numbers of the sounds.
        num_samples: of every sound.
        seed: of the noise.
        mel: (batch, bands, frames) what they are to sound like, of a conditional backbone.

    Returns:
        (batch, samples) float32 in [−1, 1]; of several channels (batch, channels, samples).
    """
    device = next(backbone.parameters()).device
    channels = backbone.config.in_channels

    def noise(draw: int) -> Tensor:
        keys = stream_keys(seed, items, draw).to(device)
        drawn = white_noise(keys, torch.zeros_like(keys), channels * num_samples)
        return drawn.view(len(items), channels, num_samples)

    x = descend(backbone, descent, noise, mel)
    return x[:, 0] if channels == 1 else x


@torch.no_grad()
def descend(
    backbone: Backbone,
    descent: Descent,
    noise: Callable[[int], Tensor],
    mel: Tensor | None = None,
) -> Tensor:
    """Do what `sample` does, with noise that the caller draws.

    Args:
        backbone, descent, mel: see `sample`.
        noise: gives the noise after a number of steps that are left, (batch, channels, samples);
            that of all steps is the start.

    Returns:
        (batch, channels, samples) float32 in [−1, 1].
    """
    deviations = [math.sqrt(variance) for variance in posterior_variances(descent.betas)]
    alpha_bars = [math.prod(1 - b for b in descent.betas[: t + 1]) for t in range(len(deviations))]
    x = noise(len(deviations))
    with backbone.unchanging():
        for t in reversed(range(len(deviations))):
            beta = descent.betas[t]
            steps = torch.full((len(x),), descent.steps[t], device=x.device, dtype=torch.float64)
            guess = backbone(x, steps, mel).float()
            x = (x - beta / math.sqrt(1 - alpha_bars[t]) * guess) / math.sqrt(1 - beta)
            if t:
                x = x + deviations[t] * noise(t)
    return x.clamp(-1, 1)
