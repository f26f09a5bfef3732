"""Sample rates: exact lengths, pure tones against theory, streams against the whole."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import torch

from open_miipher.audio.resample import (
    StreamResampler,
    num_output_frames,
    resample,
    resample_on_device,
)

RATES = [(48000, 24000), (16000, 24000), (24000, 16000), (44100, 24000), (8000, 48000)]
RATES += [(24000, 44100), (192000, 16000), (11025, 24000)]


def tone(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * frequency * time).astype(np.float32)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_lengths_are_exact(rate_in: int, rate_out: int) -> None:
    for num_frames in [*range(1, 130), 1001, 24000, 44101]:
        expected = max(1, floor(Fraction(num_frames * rate_out, rate_in) + Fraction(1, 2)))
        assert num_output_frames(num_frames, rate_in, rate_out) == expected
        assert resample(np.ones(num_frames, np.float32), rate_in, rate_out).shape == (expected,)
        on_device = resample_on_device(torch.ones(2, num_frames), rate_in, rate_out)
        assert on_device.shape == (2, ceil(Fraction(num_frames * rate_out, rate_in)))


def test_lengths_beyond_float_precision_are_exact() -> None:
    assert num_output_frames(10**12 + 1, 48000, 24000) == 5 * 10**11 + 1
    assert resample_on_device(torch.zeros(2**24 + 5), 2, 1).shape == (2**23 + 3,)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_a_tone_stays_that_tone_in_place(rate_in: int, rate_out: int) -> None:
    for share in (0.01, 0.3, 0.85):
        frequency = share * min(rate_in, rate_out) / 2
        given, expected = tone(frequency, rate_in), tone(frequency, rate_out)
        inside = slice(len(expected) // 8, len(expected) * 7 // 8)
        by_soxr = resample(given, rate_in, rate_out)[inside]
        by_torch = resample_on_device(torch.from_numpy(given), rate_in, rate_out).numpy()[inside]
        np.testing.assert_allclose(by_soxr, expected[inside], atol=5e-4)
        np.testing.assert_allclose(by_torch, expected[inside], atol=5e-3)
        np.testing.assert_allclose(by_torch, by_soxr, atol=5e-3)


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_training_hears_what_restoring_does(rate_in: int, rate_out: int) -> None:
    """To 1e-5, but for the first 10 ms, where soxr starts in a way of its own."""
    rng = np.random.default_rng(1)
    given = rng.uniform(-1, 1, (2, rate_in // 2 + 7)).astype(np.float32)
    by_soxr = resample(given, rate_in, rate_out)
    by_torch = resample_on_device(torch.from_numpy(given), rate_in, rate_out).numpy()
    num_frames = min(by_soxr.shape[1], by_torch.shape[1])
    assert abs(by_soxr.shape[1] - by_torch.shape[1]) <= 1
    same = slice(rate_out // 100, num_frames)
    np.testing.assert_allclose(by_torch[:, same], by_soxr[:, same], atol=1e-5)


def test_a_tone_above_the_new_band_is_gone() -> None:
    given = tone(9000, 24000)
    assert np.abs(resample(given, 24000, 16000)[1000:-1000]).max() < 1e-4
    on_device = resample_on_device(torch.from_numpy(given), 24000, 16000)
    assert on_device[1000:-1000].abs().max() < 2e-3


@pytest.mark.parametrize(("rate_in", "rate_out"), [*RATES, (24000, 24000)])
def test_a_stream_equals_the_whole(rate_in: int, rate_out: int) -> None:
    rng = np.random.default_rng(0)
    waveform = rng.standard_normal((2, rate_in // 3 + 1)).astype(np.float32)
    whole = resample(waveform, rate_in, rate_out)
    for size in (1000, 4097, waveform.shape[1]):
        stream = StreamResampler(rate_in, rate_out, 2)
        starts = range(0, waveform.shape[1], size)
        blocks = [stream.push(waveform[:, i : i + size], i == starts[-1]) for i in starts]
        np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, atol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 2, 9, 500])
def test_a_stream_may_end_with_an_empty_block(num_frames: int) -> None:
    waveform = np.linspace(-1, 1, num_frames, dtype=np.float32)[None]
    stream = StreamResampler(44100, 24000, 1)
    blocks = [stream.push(waveform), stream.push(waveform[:, :0], last=True)]
    whole = resample(waveform, 44100, 24000)
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, atol=1e-4)


def test_any_leading_axes_and_equal_rates() -> None:
    rng = np.random.default_rng(0)
    waveform = rng.standard_normal((2, 3, 480)).astype(np.float32)
    before = waveform.copy()
    resampled = resample(waveform, 48000, 24000)
    assert resampled.shape == (2, 3, 240)
    np.testing.assert_allclose(resampled[1, 2], resample(waveform[1, 2], 48000, 24000), atol=1e-6)
    np.testing.assert_array_equal(waveform, before)
    assert resample(waveform, 8000, 8000) is waveform
    given = torch.from_numpy(waveform)
    assert resample_on_device(given, 8000, 8000).equal(given)


def test_the_device_resampler_is_float32_under_autocast_and_differentiable() -> None:
    waveform = torch.randn(1, 480, requires_grad=True)
    expected = resample_on_device(waveform, 24000, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        found = resample_on_device(waveform, 24000, 16000)
    assert found.dtype == torch.float32
    assert found.equal(expected)
    found.sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.abs().sum() > 0
