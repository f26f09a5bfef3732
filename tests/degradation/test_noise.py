"""The asked signal-to-noise ratio, and the noise itself."""

import numpy as np
import pytest

from open_miipher.degradation import Context, Trace
from open_miipher.degradation.noise import BackgroundNoise, active_power, coloured_noise


def noise_stage(snr_db: float, source=None) -> BackgroundNoise:
    config = BackgroundNoise.Config(snr_db=(snr_db, snr_db))
    return BackgroundNoise(Context(24000, noise=source), config)


def db(ratio: float) -> float:
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("snr_db", [-5.0, 5.0, 17.3, 30.0])
@pytest.mark.parametrize("pause", [0, 12000, 200000])
def test_snr_is_hit_on_the_active_part(snr_db, pause, run):
    tone = np.sin(np.arange(48000) * 0.1).astype(np.float32)
    waveform = np.concatenate([tone, np.zeros(pause, np.float32)])  # the active part is the tone
    damaged, trace = run(noise_stage(snr_db), waveform)
    added = damaged.astype(np.float64) - waveform
    assert db(np.mean(tone**2.0) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.1)
    assert trace.drawn[0]["snr_db"] == snr_db


def test_snr_is_hit_with_recordings(run):
    recording = np.linspace(-1, 1, 48000, dtype=np.float32)
    waveform = np.sin(np.arange(48000) * 0.1).astype(np.float32)
    stage = noise_stage(12.0, lambda rng, n: (recording[:n], "ramp"))
    damaged, trace = run(stage, waveform)
    added = damaged.astype(np.float64) - waveform
    assert db(np.mean(waveform**2.0) / np.mean(added**2)) == pytest.approx(12.0, abs=0.1)
    assert np.corrcoef(added, recording)[0, 1] > 0.9999
    assert trace.drawn == [{"name": "noise", "snr_db": 12.0, "source": "ramp"}]


def test_snr_range_is_used():
    stage = BackgroundNoise(Context(24000), BackgroundNoise.Config(snr_db=(5.0, 30.0)))
    waveform, rng, drawn = np.ones(100, np.float32), np.random.default_rng(0), []
    for _ in range(400):
        trace = Trace(target=waveform)
        stage(waveform, rng, trace)
        drawn.append(trace.drawn[0]["snr_db"])
    assert min(drawn) >= 5
    assert max(drawn) <= 30
    assert np.mean(drawn) == pytest.approx(17.5, abs=1)


def test_silent_recording_is_a_failure_and_not_noise(run):
    waveform = np.ones(100, np.float32)
    damaged, trace = run(
        noise_stage(5.0, lambda rng, n: (np.zeros(n, np.float32), "hush")), waveform
    )
    assert np.array_equal(damaged, waveform)
    assert trace.failures == ["noise: hush is silent"]
    assert trace.drawn == []


def test_active_power_leaves_pauses_out():
    waveform = np.zeros(48000, np.float32)
    waveform[24000:36000] = 0.5
    assert active_power(waveform, 24000) == pytest.approx(0.25)
    assert active_power(np.zeros(1000, np.float32), 24000) == 0.0
    assert active_power(np.full(1, 0.5, np.float32), 24000) == 0.25
    assert active_power(np.full(481, 0.5, np.float32), 24000) == pytest.approx(0.25)


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_coloured_noise_has_unit_power_and_its_slope(colour):
    rng = np.random.default_rng(0)
    pieces = [coloured_noise(rng, 24000, 24000, colour) for _ in range(16)]
    assert np.mean([np.mean(p**2.0) for p in pieces]) == pytest.approx(1.0, rel=0.15)
    spectrum = np.mean([np.abs(np.fft.rfft(p)) ** 2 for p in pieces], axis=0)
    octaves = [spectrum[low : 2 * low].mean() for low in (100, 200, 400, 800, 1600, 3200)]
    slope = np.polyfit(np.arange(6), np.log2(octaves), 1)[0]
    assert slope == pytest.approx(-colour, abs=0.1)
