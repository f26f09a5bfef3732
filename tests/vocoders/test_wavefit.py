import copy
from pathlib import Path

import pytest
import torch
import yaml
from device_work import Work, pretended_gpu
from torch.nn import functional

from open_miipher.audio.mel import LogMel
from open_miipher.base.errors import UserError
from open_miipher.base.precision import store_in_bf16
from open_miipher.base.registry import build
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.base import CropPieces
from open_miipher.vocoders.wavefit import PreNetConfig, WaveFit, WaveFitConfig, interpolate
from open_miipher.vocoders.wavegrad import UNetConfig

PAPER = Path(__file__).parents[2] / "config/vocoder/wavefit_5_ssl.yaml"
BLOCK = {"num_blocks": 1, "num_heads": 2, "kernel_size": 3, "feed_forward_factor": 1}
VARIANTS = [
    {"gain": "peak"},
    {"gain": "power"},
    {"gain": "peak", "full_rate_film": False, "fold": 1, "upsample": "linear"},
    {"gain": "peak", "pre_net": PreNetConfig(**BLOCK)},
    {"gain": "power", "pre_net": PreNetConfig(**BLOCK, rate="upsampled")},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_length_is_frames_times_hop_for_every_count(make_wavefit, make_inputs, variant):
    model = make_wavefit(**variant)
    for frames in range(1, 12):
        features, noise = make_inputs(model, 2, frames)
        outputs = model(features, noise)
        assert [y.shape for y in outputs] == [(2, frames * model.hop_length)] * 3
        assert all(torch.isfinite(y).all() for y in outputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_generate_is_the_last_of_forward_bit_for_bit(make_wavefit, make_inputs, variant):
    model = make_wavefit(**variant)
    features, noise = make_inputs(model, 2, 9)
    generated = model.generate(features, noise)
    assert not generated.requires_grad
    assert torch.equal(generated, model(features, noise)[-1])
    assert torch.equal(generated, model.generate(features, noise))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(make_wavefit, make_inputs, variant, checkpointing):
    """From the first iteration's output alone as well: nothing may be left out under DDP."""
    model = make_wavefit(**variant, gradient_checkpointing=checkpointing)
    features, noise = make_inputs(model, 2, 5)
    model(features, noise)[0].square().sin().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("gain", ["peak", "power"])
def test_gradient_checkpointing_changes_no_gradient(make_wavefit, make_inputs, gain):
    plain = make_wavefit(gain)
    saving = make_wavefit(gain, gradient_checkpointing=True)
    features, noise = make_inputs(plain, 2, 5)
    for model in (plain, saving):
        torch.stack(model(features, noise)).sin().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


def test_iterations_follow_the_formula(make_wavefit, make_inputs):
    """z = y - F(y, c, t), y = 0.9 z / max|z|, for t = T … 1, with y a constant in each."""
    model = make_wavefit("peak", num_iterations=2)
    features, y = make_inputs(model, 1, 4)
    outputs = model(features, y)
    condition = model._condition(features)
    for step, output in zip((2, 1), outputs, strict=True):
        z = y - model.generator(y, condition, step)
        y = 0.9 * z / z.abs().max()
        torch.testing.assert_close(output, y)
    assert torch.autograd.grad(outputs[1].sum(), outputs[0], allow_unused=True) == (None,)


@pytest.mark.parametrize("rate", ["features", "upsampled"])
def test_the_pre_net_sees_the_whole_crop_of_a_piece(make_wavefit, make_inputs, rate):
    """With attention over the piece alone, it would learn from what restoring never shows."""
    pre_net = PreNetConfig(num_blocks=2, num_heads=2, rate=rate)
    model = make_wavefit("peak", num_iterations=1, pre_net=pre_net)
    features, noise = make_inputs(model, 2, 60)
    crops, starts = torch.tensor([1, 0, 1]), torch.tensor([20, 31, 8])
    samples = torch.arange(20 * 120)
    pieces = CropPieces(crops, starts, 20, torch.tensor([0.9, 0.3, 0.9]), torch.ones(3, 20 * 120))
    of_pieces = noise[crops[:, None], starts[:, None] * 120 + samples]
    (spoken,) = model(features, of_pieces, pieces)
    torch.testing.assert_close(spoken.abs().amax(1), pieces.peaks)
    condition = model._condition(features)
    for number, (crop, start) in enumerate(zip(crops, starts, strict=True)):
        alone = condition[crop : crop + 1, :, 2 * start : 2 * (start + 20)]
        noise_alone = of_pieces[number : number + 1]
        z = noise_alone - model.generator(noise_alone, alone, 1)
        expected = pieces.peaks[number] * z / z.abs().max()
        torch.testing.assert_close(spoken[number : number + 1], expected, atol=1e-5, rtol=1e-4)


def test_what_stands_beyond_the_end_of_a_crop_decides_no_peak(make_wavefit, make_inputs):
    model = make_wavefit("peak")
    features, noise = make_inputs(model, 1, 6)
    whole = torch.tensor([0])
    mask = (torch.arange(720) < 360).float()[None]
    loud = noise.clone()
    loud[:, 360:] *= 100
    pieces = CropPieces(whole, whole, 6, torch.tensor([0.5]), mask)
    for output in model(features, loud, pieces):
        assert output[:, :360].abs().max().item() == pytest.approx(0.5)
        assert not output[:, 360:].any()


def test_samples_of_a_batch_do_not_touch(make_wavefit, make_inputs):
    for variant in VARIANTS:
        model = make_wavefit(**variant)
        features, noise = make_inputs(model, 3, 6)
        together = model.generate(features, noise)
        for row in range(3):
            alone = model.generate(features[row : row + 1], noise[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_peak_outputs_have_the_peak_and_the_target_too(make_wavefit, make_inputs):
    model = make_wavefit("peak")
    features, noise = make_inputs(model, 3, 6)
    for output in model(features, noise):
        torch.testing.assert_close(output.abs().amax(1), torch.full((3,), 0.9))
    clean = torch.randn(2, 500) * torch.tensor([[0.01], [3.0]])
    torch.testing.assert_close(model.target(clean, clean).abs().amax(1), torch.full((2,), 0.9))
    torch.testing.assert_close(model.target(clean, 9 * clean).abs().amax(1), torch.full((2,), 0.1))
    assert not model.restores_level
    assert not model.target(torch.zeros(1, 500), torch.zeros(1, 500)).any()


def test_power_outputs_have_the_level_of_the_features(make_wavefit):
    model = make_wavefit("power")
    clean = torch.randn(2, 1200) * torch.tensor([[0.002], [0.2]])
    features = LogMel(model.config.mel)(clean)
    for output in model(features, torch.randn(2, 1200)):
        ratio = 10 * torch.log10(output.square().mean(1) / clean.square().mean(1))
        assert ratio.abs().max() < 1.5
    assert model.restores_level
    assert model.target(clean, clean) is clean
    assert model.generate(LogMel(model.config.mel)(clean * 0), clean).abs().max() < 1e-4


def test_bfloat16_keeps_levels_and_output_in_float32(make_wavefit, make_inputs):
    for variant in VARIANTS:
        model = make_wavefit(**variant)
        features, noise = make_inputs(model, 2, 8)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(features, noise)
        for output, exact in zip(rounded, model(features, noise), strict=True):
            assert output.dtype == torch.float32
            error = (output - exact).norm() / exact.norm()
            assert error < 0.1


@pytest.mark.parametrize("factor", [1, 2, 4, 5])
def test_interpolation_equals_the_library_one(factor):
    x = torch.randn(2, 3, 7)
    expected = functional.interpolate(x, scale_factor=factor, mode="linear")
    torch.testing.assert_close(interpolate(x, factor), expected)
    assert torch.equal(interpolate(x[..., :1], factor), x[..., :1].expand(2, 3, factor))


def test_state_dict_holds_parameters_alone_and_loads_strictly(make_wavefit, make_inputs):
    model = make_wavefit("power", pre_net=PreNetConfig(**BLOCK))
    state = copy.deepcopy(model.state_dict())
    assert set(state) == {name for name, _ in model.named_parameters()}
    assert all(tensor.is_contiguous() for tensor in state.values())
    other = make_wavefit("power", pre_net=PreNetConfig(**BLOCK))
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(state, strict=True)
    features, noise = make_inputs(model, 1, 3)
    assert torch.equal(model.generate(features, noise), other.generate(features, noise))


def test_features_that_do_not_fit_are_refused():
    sizes = UNetConfig()
    for width, rate, config, word in [
        (128, 25.0, WaveFitConfig(generator=sizes), "upsample_factor"),
        (128, 80.0, WaveFitConfig(gain="power"), "mel"),
        (128, 80.0, WaveFitConfig(num_iterations=0), "num_iterations"),
        (128, 80.0, WaveFitConfig(griffin_lim_steps=1), "gain=power"),
        (12, 80.0, WaveFitConfig(pre_net=PreNetConfig(num_blocks=1)), "num_heads"),
    ]:
        with pytest.raises(UserError, match=word):
            WaveFit(width, rate, config)
    spec = {"name": "wavefit", "gain": "power", "mel": {"n_mels": 80}}
    with pytest.raises(UserError, match="80 bands"):
        build(VOCODERS, spec, 128, 80.0)


def test_noise_of_another_length_is_refused(make_wavefit, make_inputs):
    model = make_wavefit("peak")
    features, noise = make_inputs(model, 1, 3)
    with pytest.raises(ValueError, match="noise"):
        model(features, noise[:, 1:])


def test_a_few_steps_bring_the_output_towards_its_target(make_wavefit):
    """Learning works: the spectral loss of a tiny model on one voice-like sound falls."""
    from open_miipher.losses import MultiResolutionSTFTConfig, MultiResolutionSTFTLoss

    model = make_wavefit("power", num_iterations=2)
    time = torch.arange(1800) / 8000
    clean = sum(0.1 / n * torch.sin(2 * torch.pi * 150 * n * time) for n in range(1, 9))[None]
    features = LogMel(model.config.mel)(clean)
    noise = torch.randn(1, 1800)
    loss = MultiResolutionSTFTLoss(MultiResolutionSTFTConfig([128, 256], [100, 200], [30, 60]))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    values = []
    for _ in range(100):
        total = sum(loss(clean, torch.stack(model(features, noise))).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(total.item())
    assert sum(values[-5:]) / 5 < 0.95 * values[0]


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("full_rate_film", [True, False])
def test_merged_it_says_the_same(make_wavefit, make_inputs, full_rate_film, on_gpu):
    """On a GPU, activations add the biases of the convolutions before them."""
    model = make_wavefit("peak", full_rate_film=full_rate_film)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    torch.nn.init.normal_(model.generator.last.weight)
    features, noise = make_inputs(model, 2, 9)
    lengths = torch.tensor([9, 5])
    expected = model.generate(features, noise, lengths)
    model.merge(on_gpu)
    raising = model.generator.up_blocks[0].convolutions[0]
    assert (raising.bias is None) == on_gpu
    assert raising.num_kinds == 3
    spoken = model.generate(features, noise, lengths)
    torch.testing.assert_close(spoken, expected, atol=1e-4, rtol=0)


def test_what_a_gpu_moves_for_a_second_of_the_papers_size():
    """In bfloat16; unmerged, in plain torch, it is 4,705 MB and 1,273 kernels (5,799 and 2,575)."""
    with torch.device("meta"):
        model = build(VOCODERS, yaml.safe_load(PAPER.read_text()), 1024, 25.0)
    store_in_bf16(model)
    model.merge(on_gpu=True)
    seconds = 4
    with pretended_gpu(model) as there:
        features = torch.empty(1, 25 * seconds, 1024, **there)
        noise = torch.empty(1, 24000 * seconds, **there)
        for lengths, megabytes, kernels in (
            (None, 3548, 1013),
            (torch.empty(1, dtype=torch.int64, **there), 4516, 2315),
        ):
            with Work() as work:
                model.generate(features, noise, lengths)
            assert sum(work.bytes.values()) / seconds / 1e6 < megabytes
            assert sum(work.kernels.values()) <= kernels
            assert work.kernels["activate"] == 5 * 36
