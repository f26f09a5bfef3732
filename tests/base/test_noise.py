import pytest
import torch

from open_miipher.base.noise import BLOCK_SIZE, white_noise


@pytest.mark.parametrize("start", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, 2**40 + 17, 2**62])
def test_slices_of_one_stream_agree_wherever_they_are_cut(start):
    whole = white_noise(5, start, 2 * BLOCK_SIZE + 3)
    for offset, length in [(0, 1), (3, 10), (BLOCK_SIZE - 2, 5), (BLOCK_SIZE, BLOCK_SIZE + 3)]:
        assert torch.equal(white_noise(5, start + offset, length), whole[offset : offset + length])


def test_values_are_fixed_for_ever():
    """A restored file must come out alike with every later version."""
    values = [1.2723618745803833, -0.6972954869270325, -0.4863932430744171, -0.356408953666687]
    assert white_noise(1234, BLOCK_SIZE - 2, 4).tolist() == values


def test_is_standard_normal_and_white():
    noise = white_noise(0, 0, 200_000)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.01
    assert abs(noise.pow(4).mean() - 3) < 0.1


def test_seeds_and_blocks_are_unrelated():
    streams = torch.stack(
        [white_noise(seed, 0, 2 * BLOCK_SIZE) for seed in (0, 1, 2**64 - 1)]
    ).view(-1, BLOCK_SIZE)
    correlation = streams @ streams.T / BLOCK_SIZE - torch.eye(6)
    assert correlation.abs().max() < 0.06


def test_no_samples_are_no_samples():
    assert white_noise(3, 100, 0).shape == (0,)


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (2**64, 0, 1), (0, -1, 1), (0, 0, -1)])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="no noise for"):
        white_noise(*arguments)
