"""Powers: those of exact sums, and those of a signal whose hum was filtered off."""

import math

import numpy as np
import pytest

from open_miipher.audio.power import PowerWithoutRumble, moments

RNG = np.random.default_rng(0)


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


@pytest.mark.parametrize("size", [1, 59, 60, 61, 500])
def test_silence_has_no_power_nor_has_a_mere_offset(size: int) -> None:
    silence = np.zeros((2, size), np.float32)
    assert not PowerWithoutRumble(silence, size, 48000).of_frames(320).any()
    offset = silence + np.float32(0.3)
    assert PowerWithoutRumble(offset, size, 48000).of_frames(320).max() < 1e-14
    assert PowerWithoutRumble(silence, size, 48000).of_frames(320, start=600).shape == (2, 0)


@pytest.mark.parametrize("size", [1, 5, 1024, 1025, 70000])
def test_moments_hold_a_quiet_sound_on_a_loud_offset(size: int) -> None:
    waveform = (0.5 + 1e-4 * RNG.standard_normal((2, size))).astype(np.float32)
    sums, squares = moments(waveform)
    exact = waveform.astype(np.float64)
    np.testing.assert_allclose(sums, exact.sum(axis=1), rtol=1e-7)
    variance = squares / size - (sums / size) ** 2
    np.testing.assert_allclose(variance, exact.var(axis=1), rtol=1e-3, atol=1e-15)
