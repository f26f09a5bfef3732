"""Filters and clipping against known answers."""

import numpy as np
import pytest
from scipy.signal import firwin

from open_miipher.base.errors import UserError
from open_miipher.degradation import Context
from open_miipher.degradation.band import BandLimit, LowPass, low_cut
from open_miipher.degradation.clipping import HardClipping, QuantileClipping, SoftClipping
from open_miipher.degradation.filtering import design_filter


def tone(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(24000) / 24000).astype(np.float32)


def test_filters_are_scipys():
    """To the bit: a run that goes on draws the same samples."""
    rng = np.random.default_rng(0)
    for rate, half in ((16000, 80), (24000, 120), (44100, 2205), (48000, 240)):
        for cutoff in rng.uniform(20, 0.49 * rate, 50):
            expected = firwin(2 * half + 1, cutoff, fs=rate).astype(np.float32)
            assert np.array_equal(design_filter(2 * half + 1, cutoff, rate), expected)
            expected = firwin(2 * half + 1, cutoff, fs=rate, pass_zero=False).astype(np.float32)
            found = design_filter(2 * half + 1, cutoff, rate, high_pass=True)
            assert np.array_equal(found, expected)


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


@pytest.mark.parametrize(("frequency", "left"), [(100.0, 1.0), (1000.0, 1.0), (25.0, 0.0), (0, 0)])
def test_low_cut(frequency, left):
    waveform = tone(frequency) if frequency else np.ones(24000, np.float32)
    damaged = low_cut(waveform, 24000, 50.0)
    assert np.allclose(damaged[2000:-2000], left * waveform[2000:-2000], atol=0.005)


@pytest.mark.parametrize("sample_rate", [16000, 24000, 48000])
def test_low_cut_halves_at_its_cutoff(sample_rate):
    times = np.arange(sample_rate) / sample_rate
    waveform = np.sin(2 * np.pi * 50 * times).astype(np.float32)
    middle = slice(sample_rate // 4, -sample_rate // 4)
    assert np.allclose(
        low_cut(waveform, sample_rate, 50.0)[middle], waveform[middle] / 2, atol=0.01
    )


def test_quantile_clipping(run):
    waveform = np.random.default_rng(0).permutation(np.linspace(-1, 1, 1001)).astype(np.float32)
    stage = QuantileClipping(
        Context(24000), QuantileClipping.Config(lower=(0.1, 0.1), upper=(0.95, 0.95))
    )
    damaged, trace = run(stage, waveform)
    assert np.allclose(damaged, np.clip(waveform, -0.8, 0.9), atol=1e-6)
    assert trace.drawn == [{"name": "quantile_clipping", "lower": 0.1, "upper": 0.95}]


def test_quantile_clipping_draws_its_bounds_apart_and_may_leave_all(run, speech_like):
    waveform = speech_like(24000)
    stage = QuantileClipping(Context(24000), QuantileClipping.Config())
    drawn = [run(stage, waveform, seed)[1].drawn[0] for seed in range(50)]
    assert all(0 <= d["lower"] <= 0.1 and 0.9 <= d["upper"] <= 1 for d in drawn)
    assert abs(np.corrcoef([d["lower"] for d in drawn], [d["upper"] for d in drawn])[0, 1]) < 0.4
    whole = QuantileClipping(
        Context(24000), QuantileClipping.Config(lower=(0.0, 0.0), upper=(1.0, 1.0))
    )
    assert np.array_equal(run(whole, waveform)[0], waveform)


@pytest.mark.parametrize("fields", [{"lower": (0.2, 0.6)}, {"upper": (0.9, 1.1)}])
def test_quantiles_outside_the_waveform_are_refused(fields):
    with pytest.raises(UserError, match="quantile_clipping"):
        QuantileClipping(Context(24000), QuantileClipping.Config(**fields))
