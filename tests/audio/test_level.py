"""Levels put back after a vocoder that gives everything the same peak."""

import math

import numpy as np
import pytest

from open_miipher.audio.level import (
    GainTrack,
    PowerWithoutRumble,
    active_frames,
    disagreement,
    fit_gain,
    moments,
    own_level_gain,
    scale,
    speech_gains,
    variances,
)

RNG = np.random.default_rng(0)
HOP = 960


def speech_like(seconds: float, level: float) -> np.ndarray:
    """Half-second bursts of a tone with quarter-second pauses, at 24 kHz: (1, samples)."""
    t = np.arange(int(seconds * 24000) // HOP * HOP) / 24000
    return (level * np.sin(2 * np.pi * 220 * t) * (t % 0.75 < 0.5))[None].astype(np.float32)


def noise(seconds: float, level: float) -> np.ndarray:
    samples = int(seconds * 24000) // HOP * HOP
    return (level * RNG.standard_normal((1, samples))).astype(np.float32)


def power(waveform: np.ndarray) -> np.ndarray:
    return np.square(waveform[0].reshape(-1, HOP)).mean(axis=1)


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


@pytest.mark.parametrize("level", [0.9, 0.1, 0.003])
@pytest.mark.parametrize("snr", [math.inf, 20, 10])
def test_the_gain_restores_the_speech_level_within_a_decibel(level: float, snr: float) -> None:
    clean = speech_like(6, level)
    rms = level / math.sqrt(2)
    noisy = clean + noise(6, rms * 10 ** (-snr / 20))
    restored = clean * (0.9 / level)  # as a vocoder of fixed peak gives it
    gain = fit_gain(power(noisy), power(restored))
    assert gain is not None
    assert abs(decibels(gain * 0.9 / level)) < 1


def test_speech_is_active_and_pauses_are_not() -> None:
    clean = speech_like(6, 0.3)
    active = active_frames(power(clean + noise(6, 0.003)))
    talking = power(clean) > 0.25 * power(clean).max()
    assert (active == talking).mean() > 0.97


@pytest.mark.parametrize(
    "steady",
    [
        noise(6, 0.1),
        0.3 * np.sin(np.arange(24000 * 6) * 0.1)[None],
        np.zeros((1, 24000)),
    ],
    ids=["noise", "tone", "silence"],
)
def test_steady_sound_and_silence_hold_no_speech(steady: np.ndarray) -> None:
    assert not active_frames(power(steady)).any()
    assert fit_gain(power(steady), power(noise(6, 0.9)[:, : steady.shape[1]])) is None


def test_nothing_to_scale_has_no_gain() -> None:
    assert fit_gain(power(speech_like(3, 0.5)), np.zeros(len(power(speech_like(3, 0.5))))) is None
    assert own_level_gain(np.ones(3), np.zeros(3)) == 1.0


def test_the_limit_is_the_inputs_own_level() -> None:
    gain = own_level_gain(power(noise(4, 0.02)), power(noise(4, 0.5)))
    assert abs(decibels(gain * 0.5 / 0.02)) < 0.1


def test_two_chunks_are_compared_where_somebody_speaks() -> None:
    before, after = np.array([4.0, 100.0, 4.0]), np.array([1.0, 1.0, 1.0])
    speaking = np.array([True, False, True])
    assert disagreement(before, after, speaking) == pytest.approx(math.log(2))
    assert disagreement(after, before, speaking) == pytest.approx(-math.log(2))
    assert disagreement(before, after, ~speaking & False) == 0
    assert disagreement(before, 0 * after, speaking) == 0
    assert disagreement(before, 1e-6 * after, speaking) == pytest.approx(math.log(4))
    assert disagreement(1e-6 * before, after, speaking) == pytest.approx(-math.log(4))


@pytest.mark.parametrize("size", [100, 40, 5, 100_000])
def test_without_a_slope_samples_are_multiplied_once(size: int) -> None:
    samples = RNG.standard_normal(size).astype(np.float32)
    scaled = samples.copy()
    scale(scaled, 0.3, (10, 90), (0.0, -0.0))
    assert np.array_equal(scaled, samples * np.float32(0.3))


@pytest.mark.parametrize("size", [100, 40, 5, 100_000])
def test_a_slope_leads_from_each_seam_to_the_middle(size: int) -> None:
    seams, logs = (10, size - 11) if size > 1000 else (10, 90), (math.log(2), -math.log(4))
    samples = RNG.standard_normal(size).astype(np.float32)
    scaled = samples.copy()
    scale(scaled, 0.3, seams, logs)
    middle = sum(seams) / 2
    line = np.interp(np.arange(size), [seams[0], middle, seams[1]], [logs[0], 0, logs[1]])
    np.testing.assert_allclose(scaled, samples * 0.3 * np.exp(line), rtol=1e-6)


def filtered(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Take off what `PowerWithoutRumble` leaves out, by a Fourier transform of the whole."""
    spectrum = np.fft.rfft(waveform - waveform.mean(axis=1, keepdims=True))
    frequencies = np.fft.rfftfreq(waveform.shape[1], 1 / rate)
    spectrum *= np.square(np.sin(np.pi / 2 * np.clip((frequencies - 100) / 50, 0, 1)))
    return np.fft.irfft(spectrum, waveform.shape[1])


def frames(waveform: np.ndarray, length: int) -> np.ndarray:
    whole = waveform[:, : waveform.shape[1] // length * length]
    return np.square(whole).reshape(len(whole), -1, length).mean(axis=2)


@pytest.mark.parametrize(
    ("rate", "length"), [(8000, 320), (16000, 640), (24000, 960), (48000, 1920), (44100, 1764)]
)
def test_power_is_that_of_the_signal_without_its_lows(rate: int, length: int) -> None:
    t = np.arange(3 * rate) / rate
    noises = 0.1 * RNG.standard_normal((2, len(t)))
    noises[1] *= t % 0.75 < 0.5
    noises += 0.1 * np.sin(2 * np.pi * 60 * t) + 0.1 * np.sin(2 * np.pi * 12 * t)
    waveform = noises.astype(np.float32)
    power = PowerWithoutRumble(waveform, waveform.shape[1], rate)
    expected, inside = frames(filtered(waveform, rate), length), slice(3, -3)
    least = 0.01 * expected.max()
    found = power.of_frames(length)
    np.testing.assert_allclose(found[:, inside], expected[:, inside], rtol=0.03, atol=least)
    later = power.of_frames(length, start=5 * length)
    np.testing.assert_allclose(later, found[:, 5:], rtol=1e-6, atol=1e-9)
    halves = power.of_frames(length, start=length // 2)[:, : found.shape[1] - 1]
    average = (found[:, 1:] + found[:, :-1]) / 2
    np.testing.assert_allclose(halves.mean(axis=1), average.mean(axis=1), rtol=0.05)


@pytest.mark.parametrize("rate", [16000, 24000])
def test_offset_hum_and_rumble_are_no_power(rate: int) -> None:
    t = np.arange(3 * rate) / rate
    speech = (0.1 * np.sin(2 * np.pi * 220 * t) * (t % 0.75 < 0.5))[None].astype(np.float32)
    hum = 0.3 * np.sin(2 * np.pi * 50 * t) + 0.2 * np.sin(2 * np.pi * 20 * t) + 0.4
    padded = np.pad(speech + hum.astype(np.float32), ((0, 0), (0, rate // 5)))
    found = PowerWithoutRumble(padded, 3 * rate, rate).of_frames(rate // 25)
    assert found.shape == (1, math.ceil(padded.shape[1] / (rate // 25)))
    expected = frames(speech, rate // 25)
    np.testing.assert_allclose(found[:, 3:72], expected[:, 3:72], atol=3e-4)
    assert found[:, 78:].max() < 1e-5  # the padding


@pytest.mark.parametrize("hum", [10, 50, 60])
def test_a_gain_is_fitted_under_hum_that_is_40_db_louder_than_speech(hum: int) -> None:
    rate = 24000
    t = np.arange(6 * rate) / rate
    speech = 0.005 * np.sin(2 * np.pi * 330 * t) * (t % 0.75 < 0.5)
    heard = speech + 0.5 * np.sin(2 * np.pi * hum * t)
    powers = [
        PowerWithoutRumble(x[None].astype(np.float32), len(t), rate).of_frames(rate // 50)[0]
        for x in (heard, speech)
    ]
    gain = fit_gain(*powers)
    assert gain is not None
    assert abs(decibels(gain)) < 1.0


@pytest.mark.parametrize("size", [1, 59, 60, 61, 500])
def test_silence_has_no_power_nor_has_a_mere_offset(size: int) -> None:
    silence = np.zeros((2, size), np.float32)
    assert not PowerWithoutRumble(silence, size, 48000).of_frames(320).any()
    offset = silence + np.float32(0.3)
    assert PowerWithoutRumble(offset, size, 48000).of_frames(320).max() < 1e-14
    assert PowerWithoutRumble(silence, size, 48000).of_frames(320, start=600).shape == (2, 0)


def test_the_gain_of_speech_does_not_depend_on_what_lies_below_it() -> None:
    """Neither an offset nor hum, 40 dB louder than it, moves it."""
    rate = 16000
    t = np.arange(3 * rate) / rate
    speech = (0.003 * np.sin(2 * np.pi * 440 * t) * (t % 0.75 < 0.5)).astype(np.float32)[None]
    [expected] = speech_gains([speech], rate)
    for under in (0.4, 0.4 * np.sin(2 * np.pi * 50 * t)):
        [found] = speech_gains([speech + np.float32(under)], rate)
        whole = 1 / math.sqrt(np.var(speech + under))  # a limit
        assert abs(decibels(found / min(expected, whole))) < 0.2


@pytest.mark.parametrize("size", [1, 5, 1024, 1025, 70000])
def test_moments_hold_a_quiet_sound_on_a_loud_offset(size: int) -> None:
    waveform = (0.5 + 1e-4 * RNG.standard_normal((2, size))).astype(np.float32)
    sums, squares = moments(waveform)
    exact = waveform.astype(np.float64)
    np.testing.assert_allclose(sums, exact.sum(axis=1), rtol=1e-7)
    variance = squares / size - (sums / size) ** 2
    np.testing.assert_allclose(variance, exact.var(axis=1), rtol=1e-3, atol=1e-15)


@pytest.mark.parametrize("size", [1, 160, 70001])
@pytest.mark.parametrize("offset", [0.1, -0.3, 0.7])
def test_a_mere_offset_is_no_sound_to_scale(size: int, offset: float) -> None:
    waveform = np.full((2, size), offset, np.float32)
    blocks = np.array_split(waveform, 3, axis=1) if size > 3 else [waveform]
    sums, squares = np.sum([moments(block) for block in blocks], axis=0)
    assert not variances(sums, squares, size).any()
    assert speech_gains(blocks, 16000).tolist() == [1, 1]
    noise = (1e-5 * RNG.standard_normal((2, 70001))).astype(np.float32)
    sums, squares = moments(np.float32(offset) + noise)
    np.testing.assert_allclose(variances(sums, squares, 70001), 1e-10, rtol=0.02)


def decide(look_ahead: int, gains: list[float | None], limit: float = 1e9) -> list[float]:
    track = GainTrack(look_ahead)
    decided = [g for gain in gains for g in track.push(gain, limit)]
    return decided + track.finish()


def test_a_pause_lies_on_the_line_between_its_neighbours() -> None:
    assert decide(4, [1.0, None, None, 0.001]) == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_at_the_ends_the_nearest_gain_is_taken() -> None:
    assert decide(4, [None, None, 0.5, None]) == pytest.approx([0.5] * 4)


def test_without_any_speech_the_limit_is_the_gain() -> None:
    assert decide(4, [None, None], limit=0.3) == [0.3, 0.3]


def test_a_pause_is_never_louder_than_its_limit() -> None:
    assert decide(4, [1.0, None, 1.0], limit=0.2) == pytest.approx([1.0, 0.2, 1.0])


def test_gains_of_speech_are_not_limited_nor_mixed() -> None:
    assert decide(4, [1.0, 7.0, 0.1], limit=0.0) == [1.0, 7.0, 0.1]


def test_a_long_pause_waits_no_longer_than_the_look_ahead() -> None:
    track = GainTrack(2)
    assert track.push(0.5, 1.0) == [0.5]
    answers = [track.push(None, 1.0) for _ in range(5)]
    assert [len(a) for a in answers] == [0, 0, 1, 1, 1]
    assert [g for a in answers for g in a] == [0.5, 0.5, 0.5]
    assert track.push(4.0, 1.0) == pytest.approx([1.0, 1.0, 4.0])  # limited: 1 and 2 on the line


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_chunk_gets_exactly_one_gain(count: int) -> None:
    for pattern in range(2**count):
        gains = [0.5 if pattern >> k & 1 else None for k in range(count)]
        assert len(decide(2, gains)) == count
