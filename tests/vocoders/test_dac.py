"""The DAC decoder: lengths, alignment, level, and parity with the stock model."""

import math

import pytest
import torch
from device_work import Work, pretended_gpu

from open_miipher.base.errors import UserError
from open_miipher.base.precision import store_in_bf16
from open_miipher.base.registry import build
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.base import CropPieces
from open_miipher.vocoders.dac import missing_samples

SIDON = [8, 5, 4, 3, 2]


def make(rates=SIDON, width=6, channels=32, seed=0, **fields):
    torch.manual_seed(seed)
    hop = math.prod(rates)
    spec = {"name": "dac", "sample_rate": 50 * hop, "channels": channels, **fields}
    return build(VOCODERS, {**spec, "upsampling_rates": rates}, width, 50.0).eval()


def speak(model, features):
    return model.generate(features, torch.zeros(()))


@pytest.mark.parametrize("rates", [SIDON, [2, 2], [3, 2], [5, 3], [7, 5, 3], [8, 8, 5, 3, 2]])
@pytest.mark.parametrize("frames", [1, 2, 25])
def test_lengths_are_exact(rates, frames):
    model = make(rates)
    waveform = speak(model, torch.randn(2, frames, 6))
    assert waveform.shape == (2, frames * math.prod(rates))
    assert waveform.dtype == torch.float32
    assert waveform.isfinite().all()


def test_the_stock_decoder_returns_so_many_less():
    assert missing_samples(SIDON) == 26
    model = make()
    assert model.decoder(torch.randn(1, 6, 25)).shape[-1] == 25 * 960 - 26


def test_sidons_size():
    with torch.device("meta"):
        plain = make(width=1024, channels=1536, weight_norm=False)
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(52.43e6, rel=1e-4)
    assert (plain.sample_rate, plain.hop_length) == (48000, 960)


def test_equals_the_decoder_of_the_stock_model():
    """`DacModel`'s, with and without weight norm, at the beginning of our output."""
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    stock = DacModel(
        DacConfig(
            encoder_hidden_size=4,
            downsampling_ratios=[2],
            hidden_size=6,
            decoder_hidden_size=32,
            upsampling_ratios=SIDON,
        )
    ).eval()
    features = torch.randn(2, 20, 6)
    for normed in (False, True):
        if normed:
            stock.apply_weight_norm()
        for name, parameter in stock.decoder.named_parameters():
            if name.endswith("original0"):  # weight norm's magnitudes
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                torch.nn.init.normal_(parameter, std=0.2)
        ours = make(weight_norm=normed)
        ours.decoder.load_state_dict(stock.decoder.state_dict(), strict=True)
        with torch.no_grad():
            theirs = stock.decoder(features.transpose(1, 2))[:, 0]
        waveform = speak(ours, features)
        assert theirs.std() > 0.01
        torch.testing.assert_close(waveform[:, :-26], theirs, atol=1e-6, rtol=1e-5)
        assert not waveform[:, -26:].any()


def centre_of_a_frame(model, frame: int, frames: int) -> float:
    """Where the energy of one frame stands in the output, in samples."""
    features = torch.zeros(1, frames, 1)
    silence = speak(model, features)
    features[0, frame] = 1.0
    energy = (speak(model, features) - silence)[0].double().square()
    return float((energy * torch.arange(len(energy))).sum() / energy.sum())


@pytest.mark.parametrize("rates", [SIDON, [4, 2], [5, 3]])
def test_each_frame_sounds_in_the_middle_of_its_own_samples_but_for_the_missing_ones(rates):
    """With symmetric kernels nothing but the decoder's layout decides where a frame comes out."""
    model = make(rates, width=1, weight_norm=False)
    for name, parameter in model.named_parameters():
        if ("res_unit" in name and name.endswith("conv2.weight")) or name.endswith("bias"):
            parameter.data.zero_()  # residual units pass what they get
        elif "conv" in name:
            parameter.data.abs_()
            parameter.data.add_(parameter.data.flip(-1).clone())
            parameter.data.mul_(0.3 / parameter.data.sum((1, 2), keepdim=True))
        else:
            parameter.data.fill_(1e-4)  # a snake that hardly winds
    hop = math.prod(rates)
    for frame in (6, 7, 9):
        expected = (frame + 0.5) * hop - 0.5 - missing_samples(rates) / 2
        assert centre_of_a_frame(model, frame, 16) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("rates", [SIDON, [4, 2], [5, 3], [8, 8, 5, 3, 2]])
def test_a_piece_sounds_as_it_does_in_its_crop(rates):
    """Without margins its ends would be those of a file."""
    model, hop, count = make(rates), math.prod(rates), 5
    margin = model.margin_frames
    frames = 2 * margin + count + 8
    features = torch.randn(2, frames, 6)
    whole = speak(model, features)
    crops, starts = torch.tensor([0, 1, 1, 0]), torch.tensor([margin, margin + 8, 0, frames - 5])
    pieces = CropPieces(crops, starts, count, torch.ones(4), torch.ones(4, count * hop))
    with torch.no_grad():
        (spoken,) = model(features, torch.zeros(()), pieces)
    expected = pieces.of(whole, hop)
    torch.testing.assert_close(spoken, expected, atol=1e-5, rtol=1e-4)
    assert rates != SIDON or margin == 11


def test_targets_are_scaled_by_the_peak_of_all_that_was_seen():
    model = make([2, 2])
    whole = torch.tensor([[0.1, -0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]])
    target = model.target(whole[:, :1], whole)
    torch.testing.assert_close(target, torch.tensor([[0.3], [0.0]]))


def test_noise_has_no_influence_and_gradients_reach_everything():
    model = make([2, 2], channels=8).train()
    features = torch.randn(1, 5, 6, requires_grad=True)
    outputs = [model(features, noise) for noise in (torch.zeros(1, 20), torch.randn(1, 20))]
    assert [len(output) for output in outputs] == [1, 1]
    assert torch.equal(outputs[0][0], outputs[1][0])
    outputs[0][0].square().sum().backward()
    assert features.grad.any()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("fields", "frame_rate", "words"),
    [
        ({}, 25.0, "960 samples per feature frame.*25 frames/s at sample_rate 48000 need 1920"),
        ({"sample_rate": 24000}, 50.0, "need 480"),
        ({"channels": 48}, 50.0, "multiple of 32"),
        ({"upsampling_rates": [960, 1]}, 50.0, "at least 2"),
        ({"upsampling_rates": []}, 50.0, "at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(fields, frame_rate, words):
    with pytest.raises(UserError, match=words):
        build(VOCODERS, {"name": "dac", **fields}, 1024, frame_rate)


def test_merged_it_says_the_same():
    """Snakes add the biases and the shortcuts."""
    model = make(weight_norm=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    features, lengths = torch.randn(2, 20, 6), torch.tensor([20, 13])
    expected = model.generate(features, torch.zeros(()), lengths)
    model.merge(on_gpu=True)
    assert [n for n, _ in model.named_parameters() if "conv" in n and "bias" in n] == [
        "decoder.conv1.bias",
        "decoder.conv2.bias",
    ]
    spoken = model.generate(features, torch.zeros(()), lengths)
    torch.testing.assert_close(spoken, expected, atol=1e-4, rtol=0)


def test_what_a_gpu_moves_and_launches_for_a_second_of_sidons_decoder():
    """In bfloat16; unmerged, in plain torch, it is 1,751 MB and 345 kernels."""
    with torch.device("meta"):
        model = make(width=1024, channels=1536, weight_norm=False)
    store_in_bf16(model)
    model.merge(on_gpu=True)
    seconds = 4
    with pretended_gpu(model) as there:
        features = torch.empty(1, 50 * seconds, 1024, **there)
        for lengths, megabytes, kernels in (
            (None, 536, 78),
            (torch.empty(1, dtype=torch.int64, **there), 669, 216),
        ):
            with Work() as work:
                model.generate(features, features, lengths)
            assert sum(work.bytes.values()) / seconds / 1e6 < megabytes
            assert sum(work.kernels.values()) <= kernels
            assert work.kernels["activate"] == 36
