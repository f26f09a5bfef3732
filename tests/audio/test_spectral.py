"""Log-spectral distance on signals whose distance is known."""

import math

import pytest
import torch

from open_miipher.audio.spectral import FLOOR_DB, log_spectral_distance


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 44100, 48000])
def test_a_gain_is_no_distance_and_half_of_the_band_louder_is_one(sample_rate: int) -> None:
    noise = torch.randn(3, 4 * sample_rate)
    distance = log_spectral_distance(noise, noise * 0.5, sample_rate)
    assert distance.shape == (3,)
    torch.testing.assert_close(distance, torch.zeros(3), atol=1e-3, rtol=0)
    spectrum = torch.fft.rfft(noise)
    spectrum[:, spectrum.shape[1] // 2 :] *= 10  # 20 dB; the level rises by 10 log10(50.5)
    louder = torch.fft.irfft(spectrum, noise.shape[1])
    gain = 10 * math.log10(50.5)
    expected = math.sqrt((gain**2 + (20 - gain) ** 2) / 2)
    distance = log_spectral_distance(noise, louder, sample_rate)
    torch.testing.assert_close(distance, torch.full((3,), expected), atol=0.3, rtol=0)


def test_equal_is_zero_and_independent_noises_are_as_far_as_chance_puts_them() -> None:
    one, other = torch.randn(2, 48000), torch.randn(2, 48000)
    assert log_spectral_distance(one, one, 24000).equal(torch.zeros(2))
    forth, back = (log_spectral_distance(*pair, 24000) for pair in ((one, other), (other, one)))
    torch.testing.assert_close(forth, back, atol=1e-2, rtol=0)  # but for the floor
    # two independent chi-square log spectra differ by 5.57 dB times the root of 2
    torch.testing.assert_close(forth, torch.full((2,), 7.88), atol=0.4, rtol=0)


def sine(decibels: float = 0.0) -> torch.Tensor:
    """Two seconds at 24 kHz in the centre of a bin of 1024."""
    time = torch.arange(48000, dtype=torch.float64) / 24000
    return (10 ** (decibels / 20) * torch.sin(2 * math.pi * time * 24000 * 100 / 1024))[None]


@pytest.mark.parametrize(("above", "expected"), [(-1.0, 0.0), (20.0, 20.0)])
def test_what_lies_below_the_floor_does_not_count(above, expected) -> None:
    """A second sine, far from the first, as far above the floor as is said."""
    time = torch.arange(48000, dtype=torch.float64) / 24000
    second = torch.sin(2 * math.pi * time * 24000 * 300 / 1024)[None]
    both = sine() + 10 ** ((FLOOR_DB + above) / 20) * second
    distance = log_spectral_distance(sine(), both, 24000)
    # three bins of 513 hold it: the middle one, and two 6 dB lower
    bins = (expected**2 + 2 * max(0.0, expected - 6.02) ** 2) / 513
    assert distance.item() == pytest.approx(math.sqrt(bins), abs=0.01)


def test_silence_lies_at_the_floor_and_two_silences_are_equal() -> None:
    silence = torch.zeros_like(sine())
    assert log_spectral_distance(silence, silence, 24000).item() == 0
    expected = math.sqrt((80**2 + 2 * 73.98**2) / 513)
    for pair in ((sine(), silence), (silence, sine())):
        assert log_spectral_distance(*pair, 24000).item() == pytest.approx(expected, rel=1e-3)


def test_each_sample_alone_and_float32_under_autocast() -> None:
    one, other = torch.randn(3, 9000), torch.randn(3, 9000)
    together = log_spectral_distance(one, other, 24000)
    alone = torch.cat(
        [log_spectral_distance(one[i : i + 1], other[i : i + 1], 24000) for i in range(3)]
    )
    torch.testing.assert_close(together, alone)
    with torch.autocast("cpu", torch.bfloat16):
        assert log_spectral_distance(one, other, 24000).equal(together)


def test_one_sample_long() -> None:
    assert log_spectral_distance(torch.ones(1, 1), torch.ones(1, 1), 24000).equal(torch.zeros(1))
