"""Diffusions of a few weights learn two tones, and what a mel says of them."""

import numpy as np
import pytest
import torch
from tiny_diffusion import RATE, TONES, VOCODER, overrides

from open_miipher.config import compose_run
from open_miipher.data import AudioBatch
from open_miipher.training.setup import build_recipe

pytestmark = pytest.mark.slow

STEPS, BATCH = 300, 16
SCHEDULE = ["model.diffusion.T=20", "model.diffusion.beta_T=0.3"]


def clips() -> torch.Tensor:
    """64 clips of 0.125 s, each of one of the tones in a phase of its own."""
    rng = np.random.default_rng(0)
    t = np.arange(1000) / RATE
    made = [np.sin(2 * np.pi * (TONES[k % 2] * t + rng.uniform())) for k in range(64)]
    return torch.tensor(0.4 * np.stack(made), dtype=torch.float32)


def trained(backbone: str, *more: str, order: torch.Tensor | None = None):
    """Train, with the mels of the clips in another order; returns the recipe and its last loss."""
    run = compose_run(overrides(backbone, "nowhere", *SCHEDULE, *more))
    recipe, waveform = build_recipe(run.model, run.data, 0), clips()
    optimizer = torch.optim.Adam(recipe.backbone.parameters(), 3e-3)
    mels, losses = None, []
    if recipe.condition is not None:
        mels = recipe.condition.log_mel(waveform).transpose(1, 2)
        mels = mels if order is None else mels[order]
    for step in range(STEPS):
        positions = torch.arange(step * BATCH, (step + 1) * BATCH)
        rows = positions % len(waveform)
        names, lengths = list(map(str, rows)), torch.full((BATCH,), 1000)
        own = None if mels is None else mels[rows]
        batch = AudioBatch(positions, names, [], waveform[rows], lengths, own)
        loss = next(recipe.passes(batch, recipe.trained)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recipe.backbone.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return recipe, np.mean(losses[-40:])


def pitches(waveform: torch.Tensor) -> torch.Tensor:
    """The loudest frequency of each row, in Hz."""
    window = torch.hann_window(waveform.shape[-1])
    return torch.fft.rfft(waveform * window, RATE).abs().argmax(-1)


def heard(recipe) -> torch.Tensor:
    """How many of 16 sounds have the tone of their mel, which are those of the first clips."""
    mel = recipe.condition(clips()[:16])
    own = torch.tensor(TONES).repeat(8)
    with torch.no_grad():
        return ((pitches(recipe._sample(torch.arange(16), 1000, mel)) - own).abs() < 150).sum()


def test_sounds_from_nothing_have_the_tones_of_the_clips():
    recipe, loss = trained("sashimi")
    assert loss < 0.12
    with torch.no_grad():
        found = pitches(recipe._sample(torch.arange(16), 1000, None))
    nearest = (found[:, None] - torch.tensor(TONES)).abs().min(1)
    assert (nearest.values < 50).sum() >= 14
    assert set(nearest.indices.tolist()) == {0, 1}


def test_a_vocoder_makes_the_tone_of_its_mel_and_one_that_heard_others_does_not():
    recipe, loss = trained("wavenet", *VOCODER)
    assert loss < 0.12
    assert heard(recipe) >= 15
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert heard(trained("wavenet", *VOCODER, order=order)[0]) <= 12
