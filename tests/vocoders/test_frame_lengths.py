"""Clips of unlike lengths in one batch: each sounds as it does alone."""

import math

import pytest
import torch

from open_miipher.base.registry import build
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.wavefit import PreNetConfig

LENGTHS = torch.tensor([9, 31, 2, 31, 17])


def check(vocoder, features, noise):
    """What stands in the features beyond a clip's end is loud, and must not be heard."""
    features = features.clone()
    for row, length in enumerate(LENGTHS):
        features[row, length:] = 3.0
    together = vocoder.generate(features, noise, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        own = slice(row, row + 1)
        samples = length * vocoder.hop_length
        alone = vocoder.generate(features[own, :length], noise[own, :samples])
        torch.testing.assert_close(together[own, :samples], alone, atol=1e-5, rtol=0)
        assert alone.abs().max() > 0.01


@pytest.mark.parametrize(
    "keys",
    [
        {"gain": "peak"},
        {"gain": "peak", "upsample": "linear", "fold": 1},
        {"gain": "peak", "full_rate_film": False, "fold": 1},
        {"gain": "peak", "pre_net": PreNetConfig(num_blocks=2, num_heads=2)},
        {
            "gain": "peak",
            "upsample": "linear",
            "pre_net": PreNetConfig(num_blocks=2, num_heads=2, rate="upsampled"),
        },
        {"gain": "power"},
        {"gain": "power", "griffin_lim_steps": 3, "fold": 1},
    ],
)
def test_wavefit(make_wavefit, make_inputs, keys):
    vocoder = make_wavefit(**keys)
    with torch.no_grad():  # as if trained: at first it removes next to nothing
        vocoder.generator.last.weight.mul_(30)
    check(vocoder, *make_inputs(vocoder, len(LENGTHS), int(LENGTHS.max())))


@pytest.mark.parametrize(
    "keys",
    [
        {"gain": "peak"},
        {"gain": "peak", "upsample": "linear", "condition_channels": 5, "start": "zeros"},
        {"gain": "peak", "pre_net": PreNetConfig(num_blocks=2, num_heads=2)},
        {"gain": "power", "griffin_lim_steps": 3},
        {"gain": "none", "start": "zeros"},
    ],
)
def test_wavenext2(make_wavenext2, make_inputs, keys):
    vocoder = make_wavenext2(**keys)
    with torch.no_grad():
        for network in vocoder.generator.networks:
            network.to_samples.weight.mul_(30)
    check(vocoder, *make_inputs(vocoder, len(LENGTHS), int(LENGTHS.max())))


@pytest.mark.parametrize("rates", [[8, 5, 4, 3, 2], [2, 2], [7, 5, 3]])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_dac(rates, weight_norm):
    torch.manual_seed(0)
    spec = {"name": "dac", "sample_rate": 50 * math.prod(rates), "channels": 32}
    spec |= {"upsampling_rates": rates, "weight_norm": weight_norm}
    vocoder = build(VOCODERS, spec, 6, 50.0).eval()
    features = torch.randn(len(LENGTHS), int(LENGTHS.max()), 6)
    check(vocoder, features, torch.zeros(len(LENGTHS), features.shape[1] * vocoder.hop_length))


def test_istft():
    vocoder = build(VOCODERS, {"name": "istft"}, 3 * 385, 62.5)
    torch.manual_seed(0)
    features = torch.randn(len(LENGTHS), int(LENGTHS.max()), 3 * 385)
    check(vocoder, features, torch.randn(len(LENGTHS), features.shape[1] * 384))
