"""Faults of recordings on signals with known answers."""

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.degradation import Context, DegradationConfig, build_degradation
from open_miipher.degradation.base import power

RATE = 24000


def build(name, noise=None, **fields):
    config = DegradationConfig({"it": {"name": name, **fields}})
    return build_degradation(config, Context(RATE, noise))


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def level_db(waveform: np.ndarray, hz: float) -> float:
    """Level of one frequency over a full-scale sine's."""
    middle = waveform[2400:-2400].astype(np.float64) * np.hanning(len(waveform) - 4800)
    turns = np.exp(-2j * np.pi * hz * np.arange(len(middle)) / RATE)
    return 20 * np.log10(abs(middle @ turns) * 4 / len(middle))


def test_an_equaliser_follows_its_curve_and_keeps_the_power(run):
    low, middle = tone(60) / 2, tone(849) / 2  # the first point of the curve, and the second of 3
    waveform = low + middle
    damaged, trace = run(build("equaliser", gain_db=[-12.0, 12.0], points=3), waveform, 4)
    gains = trace.drawn[0]["gain_db"]
    difference = level_db(damaged, 60) - level_db(damaged, 849)
    assert difference == pytest.approx(gains[0] - gains[1], abs=0.1)
    assert abs(gains[0] - gains[1]) > 3
    assert power(damaged) == pytest.approx(power(waveform), rel=1e-3)


def test_spectral_holes_are_empty_and_leave_the_rest(run):
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    fields = {"per_second": 1e-9, "width_hz": [3000.0, 3000.0], "seconds": [30.0, 30.0]}
    untouched, _ = run(build("spectral_holes", **fields), noise)
    np.testing.assert_allclose(untouched, noise, atol=1e-5)
    for seed in range(20):
        damaged, trace = run(build("spectral_holes", **{**fields, "per_second": 1.0}), noise, seed)
        if trace.drawn[0]["count"] == 1:
            break
    end = damaged[-RATE // 8 :]  # a hole of 30 s lasts to the end, wherever it began
    spectrum = np.abs(np.fft.rfft(end * np.hanning(len(end)))) ** 2
    smooth = np.convolve(spectrum, np.ones(25) / 25, "valid")  # 200 Hz
    empty = (smooth < 1e-3 * np.median(smooth)).sum() * RATE / len(end)
    assert 2500 < empty < 3100


def test_level_changes_follow_their_curve(run):
    waveform = np.ones(RATE, np.float32)
    damaged, trace = run(build("level_changes", gain_db=[-20.0, 0.0], seconds=0.25), waveform)
    gains = np.array(trace.drawn[0]["gain_db"])
    heard = 20 * np.log10(damaged[:: RATE // 4])
    np.testing.assert_allclose(heard - heard[0], gains[:4] - gains[0], atol=0.02)
    assert power(damaged) == pytest.approx(1.0, rel=1e-4)


def test_hum_stands_where_and_as_high_as_asked(run):
    waveform = tone(1000)
    stage = build("hum", snr_db=[10.0, 10.0], mains_hz=[60.0], harmonics=5)
    damaged, _ = run(stage, waveform)
    hum = damaged - waveform
    assert 10 * np.log10(power(waveform) / power(hum)) == pytest.approx(10, abs=0.01)
    spectrum = np.abs(np.fft.rfft(hum)) ** 2  # 1 s: a bin is 1 Hz
    assert spectrum[60:301:60].sum() == pytest.approx(spectrum.sum(), rel=1e-4)
    with pytest.raises(UserError, match="hum goes up to 12000 Hz"):
        build("hum", mains_hz=[60.0], harmonics=200)


def test_crackle_is_as_frequent_short_and_high_as_asked(run):
    waveform = tone(200, 20)
    fields = {"per_second": [5.0, 5.0], "seconds": [0.001, 0.001], "height_db": [6.0, 6.0]}
    damaged, trace = run(build("crackle", **fields), waveform)
    clicks = np.abs(damaged - waveform)
    assert 60 < trace.drawn[0]["count"] < 140
    assert clicks.max() == pytest.approx(np.sqrt(0.5) * 10 ** (6 / 20), rel=0.1)
    assert (clicks > 1e-6).mean() < 5 * 0.007


def test_noise_alone_asks_for_silence(run):
    recorded = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    stage = build("noise_alone", lambda rng, count: (recorded[:count], "rain"), level_db=[-6, -6])
    waveform = tone(300)
    damaged, trace = run(stage, waveform)
    assert not trace.target.any()
    assert np.corrcoef(damaged, recorded)[0, 1] == pytest.approx(1)
    assert 10 * np.log10(power(damaged) / power(waveform)) == pytest.approx(-6, abs=0.01)
    assert trace.drawn[0]["source"] == "rain"


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("equaliser", {"points": 1}, "points=1 must be at least 2"),
        ("equaliser", {"gain_db": [6.0, -6.0]}, "equaliser gain_db"),
        ("spectral_holes", {"per_second": 0.0}, "per_second=0.0"),
        ("level_changes", {"seconds": 0.0}, "level_changes seconds"),
        ("hum", {"mains_hz": []}, "hum needs mains_hz"),
        ("crackle", {"seconds": [1.0, 2.0]}, "crackle seconds"),
        ("noise_alone", {"level_db": [0.0, 1000.0]}, "noise_alone level_db"),
    ],
)
def test_values_out_of_range_are_refused(name, fields, words):
    with pytest.raises(UserError, match=words):
        build(name, **fields)
