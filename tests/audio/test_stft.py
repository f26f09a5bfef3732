"""The transform against its definition, and the way back."""

import math

import pytest
import torch

from open_miipher.audio.stft import Stft, StftConfig
from open_miipher.base.errors import UserError

SIZES = [(768, 384), (64, 16), (96, 32), (1536, 768)]


def noise(frames: int, hop: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, frames * hop, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("frames", [1, 2, 3, 17])
@pytest.mark.parametrize("power", [0.3, 1.0])
def test_the_inverse_gives_every_sample_back(n_fft, hop, frames, power):
    stft = Stft(StftConfig(n_fft=n_fft, hop_length=hop, power=power))
    waveform = noise(frames, hop)
    spectrum = stft(waveform)
    assert spectrum.shape == (2, frames, n_fft // 2 + 1)
    torch.testing.assert_close(stft.inverse(spectrum), waveform, atol=1e-6, rtol=0)


def test_a_frame_follows_the_definition():
    stft = Stft(StftConfig(n_fft=64, hop_length=16, power=0.5))
    waveform = noise(9, 16)
    window = torch.sin(math.pi * torch.arange(64) / 64)  # a Hann window's square root
    start = 5 * 16 + 8 - 32  # frame 5 is centred half a hop into its samples
    expected = torch.fft.rfft(waveform[:, start : start + 64] * window)
    expected = torch.polar(expected.abs().sqrt(), expected.angle())
    torch.testing.assert_close(stft(waveform)[:, 5], expected, atol=1e-5, rtol=1e-5)


def test_silence_has_finite_gradients_both_ways():
    stft = Stft(StftConfig(n_fft=64, hop_length=32))
    waveform = torch.zeros(1, 320, requires_grad=True)
    spectrum = stft(waveform)
    assert not spectrum.abs().any()
    stft.inverse(spectrum).square().sum().backward()
    assert waveform.grad.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_fft": 100, "hop_length": 48}, "n_fft=100 and hop_length=48"),
        ({"n_fft": 64, "hop_length": 64}, "at least twice as long"),
        ({"n_fft": 15, "hop_length": 5}, "must be even"),
        ({"hop_length": 0}, "hop_length=0"),
        ({"power": 0.0}, "power=0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        Stft(StftConfig(**fields))
