import math

import pytest
import torch
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.diffusion import BACKBONES, NoiseSchedule, ScheduleConfig, check_hop, sample
from open_miipher.diffusion.backbone import MelUpsample, convolution, embed_steps
from open_miipher.diffusion.sashimi import _Standardised
from open_miipher.diffusion.wavenet import ResidualLayer, WaveNetConfig
from open_miipher.layers import ssm

SMALL = {
    "wavenet": {"res_channels": 8, "skip_channels": 12, "num_res_layers": 4, "dilation_cycle": 3},
    "sashimi": {"d_model": 8, "n_layers": 2, "pool": [2, 4]},
}
NARROW = {"diffusion_step_embed_dim_mid": 16, "diffusion_step_embed_dim_out": 16}
MEL = {"mel_bands": 6, "mel_upsample": [2, 4]}


def small(name: str, **more):
    torch.manual_seed(0)
    backbone = build(BACKBONES, {"name": name, **SMALL[name], **NARROW, **more})
    torch.nn.init.normal_(backbone.last.out.weight)  # at the start it is 0, and nothing is heard
    return backbone


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


def num_parameters(**spec) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(BACKBONES, spec).parameters())


@pytest.mark.parametrize(("d_model", "count"), [(128, 23_470_971), (64, 7_734_267)])
def test_sashimi_has_the_published_number_of_parameters(d_model, count):
    """23.47 M and 7.73 M, as the public model with S4: 321 a channel in the recurrences of both.

    S4 spends them on C of two directions (128), A, B and its low-rank part (64 each), and Δ; here
    they are C (128), A of each direction (2 · 64), B (64), and Δ.
    """
    assert num_parameters(name="sashimi", d_model=d_model) == count


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ({}, 24_071_681),  # 24.07 M
        ({"res_channels": 128, "num_res_layers": 30, "dilation_cycle": 10}, 6_827_393),  # 6.83 M
        ({"res_channels": 64, "skip_channels": 64, "mel_bands": 80}, 2_637_305),  # 2.64 M
        ({"res_channels": 128, "skip_channels": 128, "mel_bands": 80}, 6_914_297),  # 6.91 M
    ],
)
def test_wavenet_has_the_published_number_but_for_what_is_unused(sizes, published):
    """The published ones count the residual projection of the last layer, which nothing hears."""
    if "mel_bands" in sizes:
        sizes = {**sizes, "num_res_layers": 30, "dilation_cycle": 10}
    width = sizes.get("res_channels", 256)
    unused = width * width + 2 * width  # matrix, magnitudes and biases
    assert num_parameters(name="wavenet", **sizes) + unused == published


def test_steps_are_embedded_by_the_paper_s_formula():
    """t · 10^(4 i / 63): with the sign flipped, all but the first sines would be near 0."""
    for t in (0.0, 3.0, 42.92, 199.0):
        embedded = embed_steps(torch.tensor([t], dtype=torch.float64), 128)[0].tolist()
        for i in range(64):
            angle = t * 10 ** (4 * i / 63)
            assert embedded[i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert embedded[64 + i] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_wavenet_layer_is_the_paper_s():
    torch.manual_seed(0)
    config = WaveNetConfig(res_channels=4, skip_channels=6, mel_bands=5, mel_upsample=(2, 2))
    layer = ResidualLayer(config, dilation=4, is_last=False)
    x, step, mel = torch.randn(2, 4, 20), torch.randn(2, 512), torch.randn(2, 5, 5)
    h = x + functional.linear(step, layer.step.weight, layer.step.bias)[:, :, None]
    padded, weight = functional.pad(h, (4, 4)), layer.dilated.weight
    taps = (
        torch.einsum("oc,bct->bot", weight[..., k], padded[..., 4 * k :][..., :20])
        for k in range(3)
    )
    h = sum(taps) + layer.dilated.bias[:, None]
    up = mel[:, None]
    for conv in layer.upsample.layers:
        up = functional.conv_transpose2d(up, conv.weight, conv.bias, (1, 2), (1, 1))
        up = torch.where(up > 0, up, 0.4 * up)
    h = h + layer.mel.weight[..., 0] @ up[:, 0] + layer.mel.bias[:, None]
    h = torch.tanh(h[:, :4]) * torch.sigmoid(h[:, 4:])
    residual = layer.residual.weight[..., 0] @ h + layer.residual.bias[:, None]
    skip = layer.skip.weight[..., 0] @ h + layer.skip.bias[:, None]
    torch.testing.assert_close(layer(x, step, mel), ((x + residual) / math.sqrt(2), skip))


def test_dilations_double_and_begin_again():
    backbone = small("wavenet")
    assert [layer.dilated.dilation[0] for layer in backbone.layers] == [1, 2, 4, 1]


def test_every_parameter_gets_a_gradient(name):
    for more in ({}, MEL):
        backbone = small(name, **more)
        mel = torch.randn(2, 6, 8) if more else None
        backbone(torch.randn(2, 1, 64), torch.tensor([3.0, 20.0]), mel).square().sum().backward()
        without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_no_layers_on_the_way_down_without_a_u_net():
    backbone = small("sashimi", unet=False)
    assert [len(stage) for stage in backbone.down] == [0, 0]
    x = torch.randn(1, 1, 40)
    backbone(x, torch.zeros(1)).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_the_guess_is_nothing_at_the_start(name):
    backbone = build(BACKBONES, {"name": name, **SMALL[name], **NARROW})
    assert not backbone(torch.randn(2, 1, 33), torch.zeros(2)).any()


@pytest.mark.parametrize("num_samples", [1, 31, 32, 33])
def test_any_length_comes_back(name, num_samples):
    backbone = small(name, **MEL)
    mel = torch.randn(2, 6, -(-num_samples // 8))
    guess = backbone(torch.randn(2, 1, num_samples), torch.zeros(2), mel)
    assert guess.shape == (2, 1, num_samples)
    assert guess.isfinite().all()


def test_every_stage_hears_the_last_frame_of_the_mel_and_at_the_end_alone():
    """A model that cuts the mel, and does not pool it, tells its middle of the beginning only."""
    backbone, mel = small("sashimi", **MEL), torch.randn(1, 6, 40)
    changed = mel.clone()
    changed[..., -1] += 1
    stages = zip(backbone.mels(mel, 320), backbone.mels(changed, 320), strict=True)
    lengths = []
    for before, after in stages:
        moved = (before != after).any(1)[0]
        lengths.append(len(moved))
        samples = 320 // len(moved)
        assert moved[-1]
        # A frame of 8 samples reaches half a kernel beyond it: 4 samples of the first layer's rate.
        assert not moved[: (320 - 8 - 8) // samples].any()
    assert lengths == [320, 160, 40]


@pytest.mark.parametrize("factor", [2, 6, 16])
def test_a_mel_is_upsampled_as_by_transposed_convolutions(factor):
    upsample, mel = MelUpsample((factor, 4)), torch.randn(2, 7, 11)
    x = mel[:, None]
    for layer in upsample.layers:
        with torch.no_grad():
            layer.bias.fill_(0.1)
            layer.parametrizations.weight.original1.normal_()
        x = torch.nn.functional.leaky_relu(layer(x), 0.4)
    assert torch.allclose(upsample(mel), x[:, 0], atol=1e-5)


def test_autocast_guesses_in_float32(name):
    backbone, x = small(name), torch.randn(1, 1, 64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(x, torch.tensor([5.0]))
    assert rounded.dtype == torch.float32
    exact = backbone(x, torch.tensor([5.0]))
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_sounds_depend_on_seed_and_number_alone(name):
    backbone = small(name)
    descent = NoiseSchedule(ScheduleConfig(T=5, beta_T=0.5)).full
    together = sample(backbone, descent, torch.tensor([4, 7, 9]), 100, seed=1)
    assert together.shape == (3, 100)
    assert together.abs().max() <= 1
    alone = sample(backbone, descent, torch.tensor([7]), 100, seed=1)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    other = sample(backbone, descent, torch.tensor([7]), 100, seed=2)
    assert (other - alone).abs().max() > 0.01


def test_a_run_of_the_sampler_computes_each_kernel_once(monkeypatch):
    computed = []

    def count(*arguments):
        computed.append(arguments[-1])
        return series(*arguments)

    series = ssm.power_series
    monkeypatch.setattr(ssm, "power_series", count)
    backbone = small("sashimi")
    descent = NoiseSchedule(ScheduleConfig(T=5, beta_T=0.5)).full
    sample(backbone, descent, torch.arange(2), 64, seed=0)
    assert len(computed) == len(backbone.ssm_parameters) // 5 == 10
    with backbone.unchanging():
        backbone(torch.randn(1, 1, 64), torch.zeros(1))
    assert len(computed) == 20  # none was kept beyond its run


def test_a_perfect_guess_leads_back_to_the_sound():
    """Where the backbone knows the sound, every step's mean lies on the way to it."""
    wanted = 0.5 * torch.sin(torch.arange(200) / 5)[None, None]
    schedule = NoiseSchedule(ScheduleConfig(T=50, beta_T=0.05))

    class Knowing(torch.nn.Module):
        config = small("wavenet").config

        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def unchanging(self):
            return torch.no_grad()

        def forward(self, x, steps, mel):
            below = steps.floor().long().clamp(max=48)
            bars = schedule.alpha_bars.sqrt()
            root = torch.lerp(bars[below], bars[below + 1], steps - below)[:, None, None]
            return (x - root * wanted) / (1 - root**2).sqrt()

    for descent in (schedule.full, schedule.fast([1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5])):
        heard = sample(Knowing(), descent, torch.arange(1), 200, seed=0)
        torch.testing.assert_close(heard, wanted[0].expand_as(heard), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"out_channels": 2}, "out_channels=2 must be in_channels=1"),
        ({"mel_upsample": [3, 5]}, "even factors"),
        ({"diffusion_step_embed_dim_in": 7}, "must be even"),
        ({"diffusion_step_embed_dim_mid": 0}, "diffusion_step_embed_dim_mid=0 must be above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, more, words):
    with pytest.raises(UserError, match=words):
        build(BACKBONES, {"name": name, **more}, key="model")


def test_mel_factors_must_give_the_hop():
    with pytest.raises(UserError, match=r"64 samples a frame \(4 × 16\) but .*hop_length=256"):
        check_hop(WaveNetConfig(mel_bands=80, mel_upsample=(4, 16)), 256)
    check_hop(WaveNetConfig(mel_bands=80), 256)


@pytest.mark.parametrize(("samples", "dilation"), [(100, 8), (64, 16), (9, 16), (17, 16), (50, 2)])
def test_a_dilated_convolution_is_torch_s_own(samples, dilation):
    torch.manual_seed(0)
    layer = convolution(3, 4, 3, dilation).double()
    x = torch.randn(2, 3, samples, dtype=torch.float64, requires_grad=True)
    plain = functional.conv1d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation)
    weights = torch.randn_like(plain)
    parameters = [x, *layer.parameters()]
    expected = torch.autograd.grad((plain * weights).sum(), parameters)
    torch.testing.assert_close(layer(x), plain)
    given = torch.autograd.grad((layer(x) * weights).sum(), parameters)
    torch.testing.assert_close(given, expected)


def test_a_norm_standardises_each_sample_with_exact_gradients():
    torch.manual_seed(0)
    x = (3 + 2 * torch.randn(2, 6, 9)).double()
    scale, shift = torch.randn(1).double(), torch.randn(1).double()
    arguments = [value.requires_grad_() for value in (x, scale, shift)]
    normed = _Standardised.apply(*arguments)
    expected = functional.layer_norm(x.mT, (6,)).mT * scale + shift
    torch.testing.assert_close(normed, expected)
    assert torch.autograd.gradcheck(_Standardised.apply, arguments)
