import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.discriminators import DISCRIMINATORS

SMALL = {
    "multi_scale": {"num_scales": 2, "base_channels": 4, "max_channels": 16, "num_layers": 2},
    "multi_period": {"periods": [2, 3], "channels": [4, 8, 8]},
    "multi_band_stft": {"win_lengths": [64, 32], "band_edges": [0.0, 0.3, 1.0], "channels": 4},
}


@pytest.fixture(params=list(SMALL))
def discriminator(request):
    torch.manual_seed(0)
    return build(DISCRIMINATORS, {"name": request.param, **SMALL[request.param]})


@pytest.mark.parametrize("num_samples", [1, 2, 5, 333, 2000])
def test_any_length_gives_maps_and_logits_of_each_sample(discriminator, num_samples):
    maps = discriminator(torch.randn(3, num_samples))
    assert len(maps) == 2
    for sub in maps:
        assert len(sub) > 2
        assert all(len(x) == 3 and x.numel() > 0 and torch.isfinite(x).all() for x in sub)


def test_samples_of_a_batch_do_not_touch(discriminator):
    waveform = torch.randn(3, 500)
    together = [x for sub in discriminator(waveform) for x in sub]
    alone = [x for sub in discriminator(waveform[1:2]) for x in sub]
    for joined, single in zip(together, alone, strict=True):
        torch.testing.assert_close(joined[1:2], single, atol=1e-5, rtol=1e-4)


def test_every_parameter_and_the_waveform_get_a_gradient(discriminator):
    waveform = torch.randn(2, 600, requires_grad=True)
    sum(sub[-1].square().sum() for sub in discriminator(waveform)).backward()
    assert [n for n, p in discriminator.named_parameters() if p.grad is None] == []
    assert waveform.grad.any()


def test_state_goes_through_safetensors(discriminator):
    state = load(save(discriminator.state_dict()))
    waveform = torch.randn(1, 400)
    before = discriminator(waveform)
    for parameter in discriminator.parameters():
        torch.nn.init.normal_(parameter)
    discriminator.load_state_dict(state, strict=True)
    for a, b in zip(before, discriminator(waveform), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_scales_see_averages_of_the_waveform():
    torch.manual_seed(0)
    model = build(DISCRIMINATORS, {"name": "multi_scale", **SMALL["multi_scale"]})
    waveform = torch.randn(1, 400)
    half = functional.avg_pool1d(waveform, 4, 2, 1, count_include_pad=False)
    expected = model.scales[1](half[:, None])
    for a, b in zip(model(waveform)[1], expected, strict=True):
        assert torch.equal(a, b)


def test_periods_are_the_two_dimensional_convolutions_of_the_paper():
    torch.manual_seed(0)
    model = build(DISCRIMINATORS, {"name": "multi_period", **SMALL["multi_period"]})
    waveform = torch.randn(2, 100)
    maps = model(waveform)[1]  # period 3
    x = functional.pad(waveform, (0, 2)).view(2, 1, 34, 3)
    for number, convolution in enumerate([*model.periods[1].convolutions]):
        stride, padding = (convolution.stride[0], 1), (2, 0)
        kernel = convolution.weight[..., None]
        x = functional.conv2d(x, kernel, convolution.bias, stride, padding)
        x = functional.leaky_relu(x, 0.1)
        torch.testing.assert_close(maps[number], x.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "size"),
    [("multi_scale", 16.9e6), ("multi_period", 65.8e6), ("multi_band_stft", 1.414e6)],
)
def test_paper_sizes(name, size):
    with torch.device("meta"):
        model = build(DISCRIMINATORS, {"name": name})
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.01)


def test_widths_that_cannot_be_grouped_are_refused():
    with pytest.raises(UserError, match="multiples of 4"):
        build(DISCRIMINATORS, {"name": "multi_scale", "base_channels": 6})


@pytest.mark.parametrize("wrong", [{"periods": [2, 0]}, {"periods": []}, {"kernel_size": 4}])
def test_periods_and_kernels_without_meaning_are_refused(wrong):
    with pytest.raises(UserError, match="at least 1, and its kernel_size"):
        build(DISCRIMINATORS, {"name": "multi_period", **wrong})


def test_bands_are_convolved_apart_and_judged_together():
    torch.manual_seed(0)
    model = build(DISCRIMINATORS, {"name": "multi_band_stft", **SMALL["multi_band_stft"]})
    waveform = torch.randn(2, 333)
    maps = model(waveform)[1]  # window 32: 17 bins, of which 5 are the lower band
    spectrum = torch.stft(
        waveform, 32, 8, window=torch.hann_window(32), pad_mode="constant", return_complex=True
    )
    x = torch.stack([spectrum.real, spectrum.imag], 1).transpose(2, 3)[..., :5]
    for number, layer in enumerate(model.resolutions[1].bands[0]):
        stride = 2 if number in (1, 2, 3) else 1
        padding = (1, 4 if number < 4 else 1)
        x = functional.conv2d(x, layer.weight, layer.bias, (1, stride), padding)
        x = functional.leaky_relu(x, 0.1)
        torch.testing.assert_close(maps[number], x, atol=1e-5, rtol=1e-4)
    assert len(maps) == 2 * 5 + 1
    assert maps[-1].shape[-1] == maps[4].shape[-1] + maps[9].shape[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"band_edges": [0.5, 0.1]},
        {"band_edges": [0.0, 1.2]},
        {"band_edges": [0.0]},
        {"band_edges": [0.0, 0.01, 1.0], "win_lengths": [64]},
        {"win_lengths": []},
        {"channels": 0},
    ],
)
def test_bands_and_windows_without_meaning_are_refused(wrong):
    with pytest.raises(UserError, match="the multi_band_stft discriminator's"):
        build(DISCRIMINATORS, {"name": "multi_band_stft", **wrong})


def test_a_group_gives_its_logits_alone_where_no_more_is_asked():
    torch.manual_seed(0)
    members = {"multi_period": {"periods": [2, 3], "channels": [4, 8]}}
    group = build(DISCRIMINATORS, {"name": "group", "members": members})
    waveform = torch.randn(2, 100)
    for alone, maps in zip(group(waveform, only_logits=True), group(waveform), strict=True):
        assert len(alone) == 1
        assert torch.equal(alone[0], maps[-1])
