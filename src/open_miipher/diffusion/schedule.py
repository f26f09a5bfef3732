"""The noise of a diffusion: how much there is at each step, and how it is added and taken away."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError, report

FAST_LEVELS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)
"""Variances of the six steps of DiffWave's fast sampling."""


@dataclass
class ScheduleConfig:
    """A linear schedule (Kong et al., "DiffWave", ICLR 2021, arXiv 2009.09761).

    Attributes:
        T: steps of noise.
        beta_0: variance that the first one adds.
        beta_T: variance that the last one adds.
    """

    T: int = 200
    beta_0: float = 1e-4
    beta_T: float = 0.02

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range.
        """
        rules = {
            f"T={self.T} must be at least 2": self.T >= 2,
            f"beta_0={self.beta_0} and beta_T={self.beta_T} must rise within (0, 1)": (
                0 < self.beta_0 <= self.beta_T < 1
            ),
        }
        report([f"model.diffusion: {rule}" for rule, kept in rules.items() if not kept])


@dataclass(frozen=True)
class Descent:
    """The way from noise to sound, from the last step (the least noise) to the first.

    Attributes:
        betas: variance of the noise that each step takes away.
        steps: what the backbone is told of each: places among the steps of training.
    """

    betas: tuple[float, ...]
    steps: tuple[float, ...]


class NoiseSchedule(nn.Module):
    """Variances of the forward process x_t = √ᾱ_t x + √(1 − ᾱ_t) ε, t = 0 … T − 1.

    Attributes:
        betas: (T,) float64, β.
        alpha_bars: (T,) float64, ᾱ_t = Π_{s ≤ t} (1 − β_s).
    """

    betas: Tensor
    alpha_bars: Tensor

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        betas = torch.linspace(config.beta_0, config.beta_T, config.T, dtype=torch.float64)
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alpha_bars", (1 - betas).cumprod(0), persistent=False)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)

    def noisy(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Add noise: √ᾱ_t x + √(1 − ᾱ_t) ε.

        Args:
            clean: (batch, samples), x.
            noise: (batch, samples), ε.
            steps: (batch,) int64, t.

        Returns:
            (batch, samples).
        """
        level = self.alpha_bars[steps][:, None]
        return level.sqrt().to(clean.dtype) * clean + (1 - level).sqrt().to(clean.dtype) * noise

    @property
    def full(self) -> Descent:
        """Every step of training, in turn (`ddpm`)."""
        return Descent(tuple(self.betas.tolist()), tuple(map(float, range(self.num_steps))))

    def fast(self, betas: Sequence[float]) -> Descent:
        """Descend in a few steps of other sizes (DiffWave, section 3.2 and appendix B).

        Each level's √ᾱ lies between those of two steps of training; the backbone is told the place
        between them.

        Args:
            betas: variances of the steps, from the least noise.

        Raises:
            UserError: a level is not a variance, or has more or less noise than any in training.
        """
        roots = [math.sqrt(value) for value in self.alpha_bars.tolist()]
        steps, alpha_bar = [], 1.0
        for number, beta in enumerate(betas):
            if not 0 < beta < 1:
                raise UserError(f"fast level {beta:g} is no variance: choose numbers in (0, 1)")
            alpha_bar *= 1 - beta
            root = math.sqrt(alpha_bar)
            # The first level of both is often the same, but for its last bit.
            if not roots[-1] <= root <= roots[0] * (1 + 1e-9):
                way = "less" if root > roots[0] else "more"
                raise UserError(
                    f"fast level {number + 1} ({beta:g}) is outside the trained range: with those "
                    f"before it there is {way} noise than at any of the {self.num_steps} steps of "
                    "training; choose other --fast-levels"
                )
            above = next(t for t in range(self.num_steps - 1) if roots[t + 1] <= root)
            share = (roots[above] - root) / (roots[above] - roots[above + 1])
            steps.append(max(0.0, above + share))
        return Descent(tuple(map(float, betas)), tuple(steps))


def posterior_variances(betas: Sequence[float]) -> list[float]:
    """Return β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t), the variance of x_{t−1} given x_t and x; 0 at t = 0."""
    variances, alpha_bar = [], 1.0
    for beta in betas:
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        variances.append(beta * (1 - before) / (1 - alpha_bar))
    return variances
