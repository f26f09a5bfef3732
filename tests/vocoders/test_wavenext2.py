"""WaveNeXt 2: sizes, the formula in plain torch, lengths, levels, reach, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional

from open_miipher.audio.mel import LogMel
from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.base import CropPieces
from open_miipher.vocoders.wavefit import PreNetConfig

CONFIG = Path(__file__).parents[2] / "config/vocoder"
BLOCK = PreNetConfig(num_blocks=1, num_heads=2, kernel_size=3, feed_forward_factor=1)
VARIANTS: list[dict[str, Any]] = [
    {"gain": "peak"},
    {"gain": "peak", "start": "zeros", "condition_channels": 5, "upsample": "linear"},
    {"gain": "peak", "pre_net": BLOCK},
    {"gain": "power"},
    {"gain": "power", "griffin_lim_steps": 2},
    {"gain": "none", "start": "zeros"},
    {"gain": "none"},
]


def size_of(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def as_if_trained(model: torch.nn.Module) -> torch.nn.Module:
    """At first, a network removes next to nothing."""
    with torch.no_grad():
        for network in model.generator.networks:
            network.to_samples.weight.mul_(30)
    return model


def test_it_has_the_parameters_of_the_paper():
    """14.99 million for each iteration, 74.93 for five; about 1.58 for each of the 8 blocks."""
    spec = yaml.safe_load((CONFIG / "wavenext2_log_mel.yaml").read_text())
    model = build(VOCODERS, spec, 128, 80.0)
    assert model.hop_length == 300
    assert round(size_of(model) / 1e6, 2) == 74.93
    assert [round(size_of(n) / 1e6, 2) for n in model.generator.networks] == [14.99] * 5
    assert [round(size_of(b) / 1e6, 2) for b in model.generator.networks[0].blocks] == [1.58] * 8


@pytest.mark.parametrize(("width", "pre_net_size"), [(1536, 217e6), (1024, 97e6)])
def test_for_features_of_a_speech_model_it_has_the_pre_net_of_wavefit(width, pre_net_size):
    spec = yaml.safe_load((CONFIG / "wavenext2.yaml").read_text())
    with torch.device("meta"):
        model = build(VOCODERS, spec, width, 25.0)
    assert model.hop_length == 960
    assert size_of(model.pre_net) == pytest.approx(pre_net_size, rel=0.01)
    assert size_of(model.generator) == pytest.approx(5 * 16.3e6, rel=0.01)


def plainly(w: dict[str, torch.Tensor], y: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """F_t in plain torch, for hop 60, n_fft 96 and kernel 3."""
    window = torch.hann_window(96)
    bins = torch.stft(functional.pad(y, (18, 18)), 96, 60, window=window, center=False,
                      return_complex=True) / window.square().sum().sqrt()  # fmt: skip
    x = torch.cat([bins.real, bins.imag, features.mT], 1)
    x = functional.conv1d(x, w["embed.weight"], w["embed.bias"], padding=1).mT
    x = functional.layer_norm(x, x.shape[2:], w["first_norm.weight"], w["first_norm.bias"])
    for b in (f"blocks.{n}." for n in range(2)):
        h = functional.conv1d(x.mT, w[b + "depthwise.weight"], w[b + "depthwise.bias"], padding=1,
                              groups=x.shape[2]).mT  # fmt: skip
        h = functional.layer_norm(h, h.shape[2:], w[b + "norm.weight"], w[b + "norm.bias"])
        h = functional.gelu(h @ w[b + "widen.weight"].T + w[b + "widen.bias"])
        x = x + w[b + "scale"] * (h @ w[b + "narrow.weight"].T + w[b + "narrow.bias"])
    x = functional.layer_norm(x, x.shape[2:], w["last_norm.weight"], w["last_norm.bias"])
    return (x @ w["to_samples.weight"].T).flatten(1)


def test_iterations_follow_the_formula(make_wavenext2, make_inputs):
    """y ← 0.9 z / max|z| of z = y - F_t(y, c), for t = T … 1, with weights of its own for each."""
    model = make_wavenext2("peak", upsample_factor=1, num_iterations=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    features, y = make_inputs(model, 2, 7)
    outputs = model(features, y)
    weights = model.generator.networks.state_dict()
    for step, output in zip((2, 1), outputs, strict=True):
        own = {k[2:]: v for k, v in weights.items() if k.startswith(f"{step - 1}.")}
        z = y - plainly(own, y, features)
        y = 0.9 * z / z.abs().amax(1, keepdim=True)
        torch.testing.assert_close(output, y, atol=1e-5, rtol=1e-4)
    assert torch.autograd.grad(outputs[1].sum(), outputs[0], allow_unused=True) == (None,)


@pytest.mark.parametrize("variant", VARIANTS)
def test_length_is_frames_times_hop_for_every_count(make_wavenext2, make_inputs, variant):
    model = make_wavenext2(**variant)
    for frames in range(1, 12):
        features, noise = make_inputs(model, 2, frames)
        outputs = model(features, noise)
        assert [y.shape for y in outputs] == [(2, frames * model.hop_length)] * 3
        assert all(torch.isfinite(y).all() for y in outputs)
        generated = model.generate(features, noise)
        assert not generated.requires_grad
        assert torch.equal(generated, outputs[-1])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(make_wavenext2, make_inputs, variant, checkpointing):
    model = make_wavenext2(**variant, gradient_checkpointing=checkpointing)
    features, noise = make_inputs(model, 2, 5)
    torch.stack(model(features, noise)).square().sin().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_peak_outputs_have_the_peak_and_log_mel_outputs_the_level_of_the_features(make_wavenext2):
    model = as_if_trained(make_wavenext2("peak"))
    for output in model(torch.randn(3, 6, 24), torch.randn(3, 6 * 120)):
        torch.testing.assert_close(output.abs().amax(1), torch.full((3,), 0.9))
    assert not model.restores_level
    clean = torch.randn(2, 1200) * torch.tensor([[0.002], [0.2]])
    torch.testing.assert_close(model.target(clean, clean).abs().amax(1), torch.full((2,), 0.9))
    model = as_if_trained(make_wavenext2("power"))
    features = LogMel(model.mel)(clean)
    for output in model(features, torch.randn(2, 1200)):
        ratio = 10 * torch.log10(output.square().mean(1) / clean.square().mean(1))
        assert ratio.abs().max() < 1.5
    assert model.generate(LogMel(model.mel)(clean * 0), clean).abs().max() < 1e-4
    assert model.restores_level
    assert model.target(clean, clean) is clean


def test_without_a_gain_the_noise_is_taken_from_nothing_and_nothing_is_scaled(
    make_wavenext2, make_inputs
):
    model = as_if_trained(make_wavenext2("none", start="zeros", num_iterations=1))
    features, noise = make_inputs(model, 2, 6)
    assert not model.needs_noise
    assert model.restores_level
    (spoken,) = model(features, noise)
    expected = -0.05 * model.generator(torch.zeros_like(noise), model._condition(features), 1)
    torch.testing.assert_close(spoken, expected)
    assert torch.equal(spoken, model.generate(features, torch.zeros(()).expand(2, 360)))


@pytest.mark.parametrize(
    "keys", [{"gain": "none", "start": "zeros"}, {"gain": "none", "griffin_lim_steps": 1}]
)
def test_a_chunk_sounds_inside_as_the_whole_does(make_wavenext2, make_inputs, keys):
    """Nothing but a gain is global: so overlapping chunks of one noise meet without a step."""
    model = as_if_trained(make_wavenext2(**keys))
    features, noise = make_inputs(model, 1, 120)
    whole = model.generate(features, noise)
    part = model.generate(features[:, 40:], noise[:, 40 * 60 :])
    # Three iterations: a neighbour's samples under the window, then three convolutions of 3 frames.
    reach = 3 * (1 + 3) + (0 if keys["gain"] == "none" and "start" in keys else 8)
    torch.testing.assert_close(
        whole[:, (40 + reach) * 60 :], part[:, reach * 60 :], atol=1e-5, rtol=0
    )
    first = slice((40 + reach - 2) * 60, (40 + reach - 1) * 60)
    assert whole[:, first].abs().max() > 1e-3


def test_chunks_of_a_peak_differ_by_one_gain_when_one_iteration_makes_them(
    make_wavenext2, make_inputs
):
    model = as_if_trained(make_wavenext2("peak", num_iterations=1))
    features, noise = make_inputs(model, 1, 60)
    whole = model.generate(features, noise)[0, 30 * 120 :]
    part = model.generate(features[:, 20:], noise[:, 20 * 120 :])[0, 10 * 120 :]
    gain = (whole @ part) / part.square().sum()
    torch.testing.assert_close(whole, gain * part, atol=1e-5, rtol=0)


def test_the_pre_net_sees_the_whole_crop_of_a_piece_and_the_networks_the_piece(
    make_wavenext2, make_inputs
):
    model = as_if_trained(make_wavenext2("peak", num_iterations=1, pre_net=BLOCK))
    features, noise = make_inputs(model, 2, 60)
    crops, starts = torch.tensor([1, 0, 1]), torch.tensor([20, 31, 8])
    mask = torch.ones(3, 20 * 120)
    mask[1, 900:] = 0
    pieces = CropPieces(crops, starts, 20, torch.tensor([0.9, 0.3, 0.9]), mask)
    of_pieces = noise[:, : 20 * 120][crops]
    (spoken,) = model(features, of_pieces, pieces)
    torch.testing.assert_close(spoken.abs().amax(1), pieces.peaks)
    assert not spoken[1, 900:].any()
    condition = model._condition(features)
    alone = condition[1:2, :, 40:80]
    z = of_pieces[:1] - model.generator(of_pieces[:1], alone, 1)
    torch.testing.assert_close(spoken[:1], 0.9 * z / z.abs().max(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_keeps_levels_and_output_in_float32(make_wavenext2, make_inputs, variant):
    model = as_if_trained(make_wavenext2(**variant))
    features, noise = make_inputs(model, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(features, noise)
    for output, exact in zip(rounded, model(features, noise), strict=True):
        assert output.dtype == torch.float32
        assert (output - exact).norm() < 0.05 * exact.norm()


def test_a_state_dict_holds_parameters_alone(make_wavenext2):
    model = make_wavenext2("power")
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("width", "rate", "keys", "words"),
    [
        (128, 25.0, {}, "makes 300 samples per feature frame .*upsample_factor=1.* need 960"),
        (128, 80.0, {"gain": "none"}, "gain=none needs the key mel"),
        (128, 80.0, {"gain": "loud"}, "gain='loud' must be one of peak, power, none"),
        (80, 80.0, {"gain": "power", "mel": {}}, "128 bands.*is not that of the features"),
        (
            128,
            80.0,
            {"gain": "power", "mel": {}, "griffin_lim_steps": 1, "start": "zeros"},
            "griffin_lim_steps need start=noise",
        ),
        (128, 80.0, {"num_iterations": 0}, "num_iterations"),
        (128, 80.0, {"generator": {"n_fft": 300}}, "n_fft=300 must be even and above"),
        (128, 80.0, {"generator": {"n_fft": 481}}, "n_fft=481 must be even and above"),
        (128, 80.0, {"generator": {"kernel_size": 4}}, "kernel_size=4 must be odd"),
        (128, 80.0, {"generator": {"width": 0}}, "generator.width=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(width, rate, keys, words):
    with pytest.raises(UserError, match=words):
        build(VOCODERS, {"name": "wavenext2", **keys}, width, rate)


def test_a_few_steps_bring_the_output_towards_its_target(make_wavenext2):
    """Learning works in the paper's form too, from zeros and without a gain."""
    from open_miipher.losses import MultiResolutionSTFTConfig, MultiResolutionSTFTLoss

    model = make_wavenext2("none", start="zeros", num_iterations=1)
    time = torch.arange(1800) / 8000
    clean = sum(0.1 / n * torch.sin(2 * torch.pi * 150 * n * time) for n in range(1, 9))[None]
    features = LogMel(model.mel)(clean)
    loss = MultiResolutionSTFTLoss(MultiResolutionSTFTConfig([128, 256], [100, 200], [30, 60]))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(60):
        total = sum(loss(clean, torch.stack(model(features, torch.zeros(1, 1800)))).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(total.item())
    assert sum(values[-5:]) / 5 < 0.8 * values[0]
