"""Recorded noise and impulse responses."""

import numpy as np

from open_miipher.data.files import Files
from open_miipher.data.material import RecordedNoise, RecordedResponses


def test_long_noise_gives_random_spans(make_dir):
    ramp = np.arange(24000, dtype=np.float32) / 24000
    source = RecordedNoise(Files([make_dir("noise", {"a.wav": (ramp, 24000)})]), 24000)
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(8):
        span, description = source(rng, 1000)
        start = round(float(span[0]) * 24000)
        assert np.array_equal(span, ramp[start : start + 1000])
        assert description == f"noise/a.wav channel 0 from {start / 24000:.3f} s"
        starts.add(start)
    assert len(starts) == 8


def test_short_noise_goes_round(make_dir):
    ramp = np.arange(100, dtype=np.float32) / 128
    source = RecordedNoise(Files([make_dir("noise", {"a.wav": (ramp, 24000)})]), 24000)
    span, _ = source(np.random.default_rng(0), 250)
    assert len(span) == 250
    assert np.array_equal(np.diff(span) * 128 % 100, np.ones(249))


def test_other_rates_are_resampled(make_dir):
    tone = np.sin(2 * np.pi * 1000 * np.arange(48000) / 48000).astype(np.float32)
    source = RecordedNoise(Files([make_dir("noise", {"a.wav": (tone, 48000)})]), 24000)
    span, _ = source(np.random.default_rng(0), 2400)
    assert np.argmax(np.abs(np.fft.rfft(span))) == 100


def test_responses_are_whole(make_dir):
    response = np.zeros(3000, np.float32)
    response[100] = 1.0
    files = Files([make_dir("rir", {"a.wav": (response, 24000)})])
    loaded, description = RecordedResponses(files, 24000)(np.random.default_rng(0))
    assert np.array_equal(loaded, response)
    assert description == "rir/a.wav channel 0"
