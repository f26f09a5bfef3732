import math

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.diffusion import NoiseSchedule, ScheduleConfig
from open_miipher.diffusion.schedule import posterior_variances

LEVELS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(T=50, beta_0=1e-4, beta_T=0.05))


def test_noise_is_added_as_the_closed_form_says(schedule):
    betas = np.linspace(1e-4, 0.05, 50)
    kept = np.prod(1 - betas[:31])
    clean, noise = torch.randn(2, 100), torch.randn(2, 100)
    wanted = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise
    noisy = schedule.noisy(clean, noise, torch.tensor([30, 30]))
    torch.testing.assert_close(noisy, wanted)


def test_steps_one_after_the_other_have_the_variance_of_the_closed_form(schedule):
    variance = 0.0
    for beta, alpha_bar in zip(schedule.betas.tolist(), schedule.alpha_bars.tolist(), strict=True):
        variance = (1 - beta) * variance + beta
        assert variance == pytest.approx(1 - alpha_bar, abs=1e-12)


def test_the_posterior_variance_is_that_of_two_gaussians(schedule):
    """Of x_{t-1}: 1 / (α_t / β_t + 1 / (1 − ᾱ_{t-1})), the precisions of both its neighbours."""
    betas, bars = schedule.betas.tolist(), schedule.alpha_bars.tolist()
    variances = posterior_variances(betas)
    assert variances[0] == 0.0
    for t in range(1, 50):
        precision = (1 - betas[t]) / betas[t] + 1 / (1 - bars[t - 1])
        assert variances[t] == pytest.approx(1 / precision, rel=1e-9)


@pytest.mark.parametrize(
    ("T", "beta_T", "wanted"),
    [
        (50, 0.05, (0, 0.89, 4.09, 10.45, 22.99, 42.92)),
        (200, 0.02, (0, 3.2, 13.4, 33.8, 74.0, 138.1)),
    ],
)
def test_fast_levels_lie_between_steps_of_training(T, beta_T, wanted):
    steps = NoiseSchedule(ScheduleConfig(T, 1e-4, beta_T)).fast(LEVELS).steps
    assert steps == pytest.approx(wanted, abs=0.05 if T == 200 else 0.005)


def test_the_levels_of_training_lie_at_its_own_steps(schedule):
    descent = schedule.fast(schedule.betas.tolist())
    assert descent.steps == pytest.approx(range(50), abs=1e-6)
    assert descent.betas == schedule.full.betas


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ((1e-5, 0.1), "fast level 1 .* less noise"),
        ((1e-4, 0.5, 0.9), "fast level 3 .* more noise"),
        ((0.1, 1.5), "1.5 is no variance"),
    ],
)
def test_levels_outside_the_trained_range_are_refused(schedule, levels, words):
    with pytest.raises(UserError, match=words):
        schedule.fast(levels)


def test_schedules_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"2 problems:[\s\S]*T=1[\s\S]*beta_0=0.5 and beta_T=0.1"):
        ScheduleConfig(T=1, beta_0=0.5, beta_T=0.1)
