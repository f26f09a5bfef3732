import math

import numpy as np
import pytest
import torch

from open_miipher.base.noise import _mixed, _steps, gumbel_noise, stream_keys, uniform, white_noise

ZERO = torch.zeros(1, dtype=torch.int64)


def keys(*items: int, seed: int = 0, draw: int = 0) -> torch.Tensor:
    return stream_keys(seed, torch.tensor(items), draw)


def noise(num_samples: int, start: int = 0, seed: int = 0, item: int = 0) -> torch.Tensor:
    return white_noise(keys(item, seed=seed), ZERO + start, num_samples)[0]


def split_mix(state: int) -> int:
    """SplitMix64's step as it is published, in Python's whole numbers."""
    word = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


@pytest.mark.parametrize("state", [0, 1, 1234567, 2**63 - 1])
def test_bits_are_the_published_generator_s(state):
    bits = _mixed(state + _steps(3, ZERO.device))
    expected = [split_mix(state + place * 0x9E3779B97F4A7C15) for place in range(3)]
    assert [int(number) % 2**64 for number in bits] == expected


def test_the_first_published_value():
    """With state 0 SplitMix64 begins with e220a8397b1dcdaf, as its authors' code prints it."""
    assert int(_mixed(_steps(1, ZERO.device))) % 2**64 == 0xE220A8397B1DCDAF


def test_any_slice_agrees_with_the_whole():
    whole = noise(5000, start=2**40)
    for offset, length in ((0, 5), (4097, 900), (4999, 1)):
        assert torch.equal(noise(length, 2**40 + offset), whole[offset : offset + length])


def test_a_stream_does_not_depend_on_the_batch():
    both = white_noise(keys(3, 7), torch.tensor([5, 0]), 100)
    assert torch.equal(both[1], noise(100, item=7))
    assert torch.equal(both[0], noise(105, item=3)[5:])


def test_values_stay_what_they_are():
    """A changed stream would change every run that is resumed, and every restored file."""
    expected = [-1.1766988, -1.6828626, 0.28169525, -1.4954028]
    assert noise(4, seed=1234, item=5).tolist() == pytest.approx(expected, abs=1e-6)
    assert uniform(keys(0, 1, seed=3, draw=2)).tolist() == pytest.approx(
        [0.07312268, 0.26355696], abs=1e-7
    )


def test_it_is_white_and_normal():
    samples = noise(400_000).double().numpy()
    assert samples.mean() == pytest.approx(0, abs=0.01)
    assert samples.std() == pytest.approx(1, abs=0.01)
    for limit in (0.5, 1, 2, 3):  # against the normal distribution
        share = (np.abs(samples) < limit).mean()
        assert share == pytest.approx(math.erf(limit / math.sqrt(2)), abs=0.003)
    power = np.abs(np.fft.rfft(samples.reshape(-1, 1000))[:, 1:-1]) ** 2 / 1000
    assert power.mean(0).std() < 0.08  # 400 spectra: 0.05 if they are independent
    assert np.abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.01


def test_seeds_items_and_draws_give_other_noise():
    streams = torch.stack(
        [
            white_noise(stream_keys(seed, torch.tensor([item]), draw), ZERO, 20_000)[0]
            for seed, item, draw in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 1, 1))
        ]
    )
    correlation = np.corrcoef(streams.numpy()) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.03


def test_uniform_numbers_fill_their_range():
    numbers = uniform(stream_keys(5, torch.arange(100_000), 1))
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    assert numbers.histc(10, 0, 1).tolist() == pytest.approx([10_000] * 10, rel=0.05)


def test_nothing_is_nothing():
    assert noise(0).shape == (0,)


@pytest.mark.gpu
def test_a_gpu_gives_the_same():
    keys_here = keys(1, 2, 3)
    starts = torch.tensor([0, 5, 2**40])
    here = white_noise(keys_here, starts, 100_000)
    there = white_noise(keys_here.cuda(), starts.cuda(), 100_000).cpu()
    assert (here != there).sum() <= 3
    torch.testing.assert_close(here, there, atol=1e-6, rtol=1e-6)
    assert torch.equal(uniform(keys_here), uniform(keys_here.cuda()).cpu())


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, 37, 31, 1])  # vectors of 8 or 16, and what is left of one
def test_the_compilers_own_code_draws_the_same(count):
    def drawn(items, starts):
        keys = stream_keys(2**63 - 1, items, 1)
        beginning = white_noise(keys, torch.zeros_like(keys), count)
        further = white_noise(keys, starts, count)
        return uniform(keys), beginning, further, gumbel_noise(keys, count)

    given = torch.tensor([0, 1, 2**40]), torch.tensor([0, 5, 2**40])
    for own, plain in zip(torch.compile(drawn)(*given), drawn(*given), strict=True):
        assert torch.equal(own, plain)
