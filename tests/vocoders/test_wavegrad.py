import math

import pytest
import torch
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.vocoders.wavegrad import (
    Raising,
    UNet,
    UNetConfig,
    UpBlock,
    repeat,
    step_embedding,
)


@pytest.mark.parametrize("factors", [[5, 4, 3, 2, 2], [5, 5, 3, 2, 2]])
@pytest.mark.parametrize("full_rate_film", [True, False])
def test_paper_size(factors, full_rate_film):
    config = UNetConfig(up_factors=factors, full_rate_film=full_rate_film)
    with torch.device("meta"):
        size = sum(p.numel() for p in UNet(config).parameters())
    assert 13.8e6 < size < 15.8e6
    assert config.hop_length == math.prod(factors)


def test_step_embedding_tells_the_iterations_apart():
    embeddings = torch.stack([step_embedding(t, 32, torch.device("cpu")) for t in range(1, 6)])
    torch.testing.assert_close(embeddings[0, 0], torch.tensor(1.0).sin())
    torch.testing.assert_close(embeddings[2, 16], torch.tensor(3.0).cos())
    assert torch.cdist(embeddings, embeddings).add(torch.eye(5) * 9).min() > 0.5


def test_output_depends_on_every_input():
    torch.manual_seed(0)
    config = UNetConfig(4, 4, [4], [4, 4], [3, 2], [[1, 2, 1, 2]] * 2)
    net = UNet(config)
    waveform, condition = torch.randn(1, 30), torch.randn(1, 4, 5)
    out = net(waveform, condition, 1)
    assert out.shape == waveform.shape
    assert not torch.allclose(net(waveform, condition, 2), out)
    assert not torch.allclose(net(waveform, condition + 1, 1), out)
    assert not torch.allclose(net(waveform + 1, condition, 1), out)


def test_pointwise_steps_before_the_repetition_change_nothing():
    """The block as the paper draws it, everything at the higher rate."""
    torch.manual_seed(0)
    block = UpBlock(4, 6, 3, [1, 2, 4, 8])
    x = torch.randn(2, 4, 7)
    scale, shift = torch.randn(2, 2, 6, 21)
    first, second, third, fourth = block.convolutions

    def modulated(y):
        return functional.leaky_relu(scale * y + shift, 0.2)

    raised = functional.interpolate(x, scale_factor=3, mode="nearest")
    y = functional.leaky_relu(raised, 0.2)
    y = functional.conv1d(y, first.weight, first.bias, padding=1)
    y = second(modulated(y)) + block.shortcut(raised)
    expected = y + fourth(modulated(third(modulated(y))))
    end, shortcut = block(x, None, torch.cat([scale, shift], dim=1))
    torch.testing.assert_close(shortcut + end, expected)


def test_repeat_is_nearest_interpolation():
    x = torch.randn(2, 3, 5)
    expected = functional.interpolate(x, scale_factor=4, mode="nearest")
    assert torch.equal(repeat(x, 4), expected)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 7])
@torch.no_grad()
def test_merged_a_raising_convolution_says_the_same_by_fewer_multiplications(
    factor, dilation, frames
):
    torch.manual_seed(0)
    raising, x = Raising(4, 6, factor, dilation), torch.randn(2, 4, frames)
    repeated = functional.interpolate(x, scale_factor=factor, mode="nearest")
    weights = raising.weight.clone(), raising.bias
    expected = functional.conv1d(repeated, *weights, padding=dilation, dilation=dilation)
    torch.testing.assert_close(raising(x), expected)
    raising.merge()
    torch.testing.assert_close(raising(x), expected, atol=1e-6, rtol=1e-6)
    a_frame = math.prod(raising.weight.shape) / (4 * 6)
    assert a_frame == (3 if factor == 1 or dilation == 2 else 4 if factor == 2 else 6)


def test_sizes_that_do_not_fit_are_all_named():
    with pytest.raises(UserError) as caught:
        UNetConfig(stem_channels=3, up_factors=[5, 2], up_channels=[8], dilations=[[1, 2]], fold=0)
    for word in ("up_channels", "4 numbers", "even", "fold"):
        assert word in str(caught.value)
