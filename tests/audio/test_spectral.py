"""Log-spectral distance on signals whose distance is known."""

import math

import pytest
import torch

from open_miipher.audio.spectral import log_spectral_distance


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 44100, 48000])
def test_a_gain_is_its_decibels(sample_rate: int) -> None:
    noise = torch.randn(3, sample_rate)
    distance = log_spectral_distance(noise, noise * 0.5, sample_rate)
    assert distance.shape == (3,)
    torch.testing.assert_close(distance, torch.full((3,), 20 * math.log10(2)), atol=1e-2, rtol=0)


def test_equal_is_zero_and_order_does_not_matter() -> None:
    one, other = torch.randn(2, 12000), torch.randn(2, 12000)
    assert log_spectral_distance(one, one, 24000).equal(torch.zeros(2))
    forth, back = (log_spectral_distance(*pair, 24000) for pair in ((one, other), (other, one)))
    assert forth.equal(back)
    # two independent chi-square log spectra differ by 5.57 dB times the root of 2
    torch.testing.assert_close(forth, torch.full((2,), 7.88), atol=0.4, rtol=0)


@pytest.mark.parametrize("floor_db", [-80.0, -100.0])
def test_what_lies_below_the_floor_does_not_count(floor_db) -> None:
    time = torch.arange(48000) / 24000
    sine = torch.sin(2 * math.pi * time * 24000 * 85 / 2048)[None]
    quiet = sine * 10 ** (floor_db / 20) * 0.99
    distance = log_spectral_distance(torch.zeros_like(sine), quiet, 24000, floor_db)
    assert distance.item() == pytest.approx(0, abs=1e-5)


def test_a_sine_stands_as_far_above_the_floor_as_it_should() -> None:
    time = torch.arange(48000) / 24000
    sine = torch.sin(2 * math.pi * time * 24000 * 85 / 2048)[None]
    distance = log_spectral_distance(torch.zeros_like(sine), sine, 24000, floor_db=-80.0)
    # away from the edges three bins of 1025 hold the sine: 80, 74 and 74 dB above the floor
    expected = math.sqrt((80**2 + 2 * 74**2) / 1025)
    assert distance.item() == pytest.approx(expected, rel=0.2)


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
