"""Losses between a vocoder and its discriminators: adversarial, and feature matching.

There are two kinds. Each takes sums or means as its paper does, because the published loss weights
are for these:

- `hinge`: Koizumi et al., "WaveFit" (SLT 2022, arXiv 2210.01029), eq. 19-21; means over the
  sub-discriminators and over the feature maps.
- `least_squares`: Mao et al., "LSGAN" (arXiv 1611.04076), as HiFi-GAN (arXiv 2010.05646, eq. 1-6)
  and DAC (arXiv 2306.06546) take it; sums over the sub-discriminators and over the feature maps.

Every output of the vocoder is judged, and all have equal weight. Values are means over the places
of a map, then means or sums as above, then means over samples.

A discriminator maps waveforms (batch, samples) to one list of feature maps (batch, …) for each of
its sub-discriminators, the logits last.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Maps = list[list[Tensor]]
Discriminator = Callable[[Tensor], Maps]
Kind = Literal["hinge", "least_squares"]


class GeneratorLosses(nn.Module):
    """The generator's adversarial loss and the feature matching loss.

    Args:
        kind: of the losses.
    """

    def __init__(self, kind: Kind = "hinge") -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self, discriminator: Discriminator, target: Tensor, outputs: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Judge waveforms.

        Args:
            discriminator: the bare module (not its wrapper), with frozen parameters.
            target: (batch, samples) real.
            outputs: T waveforms (batch, samples), generated.

        Returns:
            `adversarial` and `feature_matching`, scalars.
        """
        # Two passes, not one joined batch: no gradient is needed through the real waveforms.
        with torch.no_grad():
            real_maps = discriminator(target)
        fake_maps = discriminator(torch.cat(list(outputs)))
        logits = [sub[-1] for sub in fake_maps]
        distances = feature_distances(real_maps, fake_maps)
        if self.kind == "hinge":
            return {"adversarial": hinge_generator(logits), "feature_matching": distances.mean()}
        return {"adversarial": least_squares_generator(logits), "feature_matching": distances.sum()}


class DiscriminatorLoss(nn.Module):
    """The loss of a discriminator over the target and every iteration's output.

    Args:
        kind: of the loss.
    """

    def __init__(self, kind: Kind = "hinge") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, maps: Maps, num_real: int) -> Tensor:
        """Judge the discriminator by its logits.

        Args:
            maps: what it gives for real and then generated waveforms, as one batch.
            num_real: how many are real.

        Returns:
            Scalar.
        """
        parts = [logits.split([num_real, len(logits) - num_real]) for *_, logits in maps]
        judge = hinge_discriminator if self.kind == "hinge" else least_squares_discriminator
        return judge([real for real, _ in parts], [fake for _, fake in parts])


def hinge_discriminator(real_logits: list[Tensor], fake_logits: list[Tensor]) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), one tensor (batch, …) a sub-discriminator."""
    real = _means([functional.relu(1 - logits.float()) for logits in real_logits])
    fake = _means([functional.relu(1 + logits.float()) for logits in fake_logits])
    return real.mean() + fake.mean()


def hinge_generator(fake_logits: list[Tensor]) -> Tensor:
    """-D(fake), one tensor (batch, …) a sub-discriminator."""
    return _means([-logits.float() for logits in fake_logits]).mean()


def least_squares_discriminator(real_logits: list[Tensor], fake_logits: list[Tensor]) -> Tensor:
    """(1 - D(real))² + D(fake)², one tensor (batch, …) a sub-discriminator."""
    real = _means([(1 - logits.float()).square() for logits in real_logits])
    fake = _means([logits.float().square() for logits in fake_logits])
    return real.sum() + fake.sum()


def least_squares_generator(fake_logits: list[Tensor]) -> Tensor:
    """(1 - D(fake))², one tensor (batch, …) a sub-discriminator."""
    return _means([(1 - logits.float()).square() for logits in fake_logits]).sum()


def feature_distances(real_maps: Maps, fake_maps: Maps) -> Tensor:
    """Mean absolute difference of each feature map, logits left out; not divided by their size.

    Args:
        real_maps: maps (batch, …) of each sub-discriminator; they get no gradient.
        fake_maps: maps (k * batch, …) of k outputs for each real waveform, one batch after another.

    Returns:
        (maps of all sub-discriminators,).
    """
    return _means(
        [
            (fake.float().unflatten(0, (-1, len(real))) - real.detach().float()).abs()
            for real_sub, fake_sub in zip(real_maps, fake_maps, strict=True)
            for real, fake in zip(real_sub[:-1], fake_sub[:-1], strict=True)
        ]
    )


def _means(values: list[Tensor]) -> Tensor:
    return torch.stack([value.mean() for value in values])
