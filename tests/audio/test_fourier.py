"""Sums over complex spectra, and of frames, against torch's own."""

import pytest
import torch
from torch.nn import functional

from open_miipher.audio import fourier


def test_power_is_the_sum_of_squares_with_its_gradient():
    torch.manual_seed(0)
    parts = torch.randn(2, 5, 7, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, 7, dtype=torch.float64)
    plain = parts.square().sum(-1)
    expected = torch.autograd.grad((plain * weights).sum(), parts)
    torch.testing.assert_close(fourier.power(parts), plain)
    given = torch.autograd.grad((fourier.power(parts) * weights).sum(), parts)
    torch.testing.assert_close(given, expected)
    assert fourier.power(torch.tensor([[3.0, 4.0]])).tolist() == [25.0]


def test_the_exponential_is_that_of_complex_numbers():
    x = torch.complex(torch.linspace(-5, 3, 50), torch.linspace(-20, 20, 50))
    torch.testing.assert_close(fourier.exp(x), torch.exp(x))


@pytest.mark.parametrize(("size", "hop"), [(1200, 300), (1200, 350), (7, 7), (7, 6), (3, 1)])
def test_frames_are_added_as_fold_does(size, hop):
    torch.manual_seed(0)
    frames = torch.randn(2, 5, size)
    length = 4 * hop + size
    folded = functional.fold(frames.mT, (1, length), (1, size), stride=(1, hop))[:, 0, 0]
    added = fourier.overlap_add(frames, hop)
    torch.testing.assert_close(added[:, :length], folded)
    assert not added[:, length:].any()
