"""Hinge losses and feature matching between a vocoder and its discriminators.

Koizumi et al., "WaveFit" (SLT 2022, arXiv 2210.01029), eq. 19-21: every intermediate output of the
vocoder is judged, and all count alike. Values are means over the places of a map, then over the
maps and sub-discriminators, then over samples.

A discriminator maps waveforms (batch, samples) to one list of feature maps (batch, …) for each of
its sub-discriminators, the logits last.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Maps = list[list[Tensor]]
Discriminator = Callable[[Tensor], Maps]


def discriminator_loss(
    discriminator: Discriminator, target: Tensor, outputs: Sequence[Tensor]
) -> Tensor:
    """Hinge loss of a discriminator over the target and every iteration's output.

    Real and generated waveforms go through it as one batch; the outputs are detached.

    Args:
        discriminator: the module, or its wrapper for several ranks.
        target: (batch, samples) real.
        outputs: T waveforms (batch, samples), generated.

    Returns:
        Scalar.
    """
    maps = discriminator(torch.cat([target, *(output.detach() for output in outputs)]))
    logits = [sub[-1] for sub in maps]
    size = len(target)
    return hinge_discriminator([x[:size] for x in logits], [x[size:] for x in logits])


def generator_losses(
    discriminator: Discriminator, target: Tensor, outputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """What the generator is to lower: its hinge loss and the feature matching loss.

    Args:
        discriminator: bare, with its parameters frozen.
        target: (batch, samples) real.
        outputs: T waveforms (batch, samples), generated.

    Returns:
        `adversarial` and `feature_matching`, scalars.
    """
    # Two passes, not one joined batch: nothing has to flow back through the real half.
    with torch.no_grad():
        real_maps = discriminator(target)
    fake_maps = discriminator(torch.cat(list(outputs)))
    return {
        "adversarial": hinge_generator([sub[-1] for sub in fake_maps]),
        "feature_matching": feature_matching(real_maps, fake_maps),
    }


def hinge_discriminator(real_logits: list[Tensor], fake_logits: list[Tensor]) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), one tensor (batch, …) a sub-discriminator."""
    real = _mean([functional.relu(1 - logits.float()).mean() for logits in real_logits])
    fake = _mean([functional.relu(1 + logits.float()).mean() for logits in fake_logits])
    return real + fake


def hinge_generator(fake_logits: list[Tensor]) -> Tensor:
    """-D(fake), one tensor (batch, …) a sub-discriminator."""
    return _mean([-logits.float().mean() for logits in fake_logits])


def feature_matching(real_maps: Maps, fake_maps: Maps) -> Tensor:
    """Mean absolute difference of the feature maps, logits left out; not divided by their size.

    Args:
        real_maps: maps (batch, …) of each sub-discriminator; taken as constants.
        fake_maps: maps (k * batch, …), k generated waveforms after each other for each real one.

    Returns:
        Scalar.
    """
    distances = [
        (fake.float().unflatten(0, (-1, len(real))) - real.detach().float()).abs().mean()
        for real_sub, fake_sub in zip(real_maps, fake_maps, strict=True)
        for real, fake in zip(real_sub[:-1], fake_sub[:-1], strict=True)
    ]
    return _mean(distances)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
