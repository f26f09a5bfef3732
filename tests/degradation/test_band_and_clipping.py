"""Filters and clipping against known answers."""

import numpy as np
import pytest

from open_miipher.degradation import Context
from open_miipher.degradation.band import BandLimit, LowPass
from open_miipher.degradation.clipping import HardClipping, SoftClipping


def tone(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(24000) / 24000).astype(np.float32)


@pytest.mark.parametrize("frequency", [100.0, 1000.0, 3500.0])
def test_low_pass_leaves_the_band_alone(frequency, run):
    stage = LowPass(Context(24000), LowPass.Config(cutoff=(4000.0, 4000.0)))
    damaged, trace = run(stage, tone(frequency))
    assert np.allclose(damaged[500:-500], tone(frequency)[500:-500], atol=0.005)
    assert trace.drawn == [{"name": "low_pass", "cutoff": 4000.0}]


@pytest.mark.parametrize("frequency", [4500.0, 8000.0, 11000.0])
def test_low_pass_takes_the_rest(frequency, run):
    stage = LowPass(Context(24000), LowPass.Config(cutoff=(4000.0, 4000.0)))
    damaged, _ = run(stage, tone(frequency))
    assert np.abs(damaged[500:-500]).max() < 0.005


@pytest.mark.parametrize(("frequency", "left"), [(1000.0, 1.0), (3000.0, 1.0), (4500.0, 0.0)])
def test_band_limit(frequency, left, run):
    stage = BandLimit(Context(24000), BandLimit.Config(rates=[8000, 96000]))
    damaged, trace = run(stage, tone(frequency))
    assert np.allclose(damaged[500:-500], left * tone(frequency)[500:-500], atol=0.005)
    assert trace.drawn == [{"name": "band_limit", "rate": 8000}]


@pytest.mark.parametrize("num_samples", range(1, 60))
def test_band_limit_keeps_every_length(num_samples, run):
    stage = BandLimit(Context(24000), BandLimit.Config())
    for seed in range(4):
        assert len(run(stage, np.ones(num_samples, np.float32), seed)[0]) == num_samples


def test_hard_clipping(run):
    stage = HardClipping(Context(24000), HardClipping.Config(gain=(2.0, 2.0)))
    damaged, _ = run(stage, np.array([0.0, 0.3, -0.4, 0.8, -0.6], np.float32))
    assert np.allclose(damaged, [0.0, 0.3, -0.4, 0.4, -0.4])


def test_soft_clipping(run):
    stage = SoftClipping(Context(24000), SoftClipping.Config(gain=(2.0, 2.0)))
    damaged, _ = run(stage, np.array([0.0, 0.001, -0.4, 0.8], np.float32))
    assert np.allclose(damaged, [0.0, 0.001, -0.4 * np.tanh(1), 0.4 * np.tanh(2)], atol=1e-6)
