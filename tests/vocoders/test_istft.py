"""The stft encoder and the istft vocoder: the identity, and noise where it is asked for."""

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.encoders import ENCODERS
from open_miipher.vocoders import VOCODERS

SPEC = {"sample_rate": 24000, "n_fft": 768, "hop_length": 384}
ENCODER = build(ENCODERS, {"name": "stft", **SPEC})
VOCODER = build(VOCODERS, {"name": "istft", **SPEC}, ENCODER.width, ENCODER.frame_rate)
BINS = 385


def noise(num_samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(num_samples))


@pytest.mark.parametrize("num_samples", [1, 2, 383, 384, 385, 767, 768, 769, 5000, 24001])
@pytest.mark.parametrize("level", [1e-4, 1.0, 100.0])
def test_the_two_are_the_identity_at_any_length_and_level(num_samples, level):
    waveform = level * noise(num_samples)
    features, lengths = ENCODER(waveform, torch.tensor([num_samples]))
    frames = -(-num_samples // 384)
    assert features.shape == (1, frames, 3 * BINS)
    assert lengths.tolist() == [frames]
    spoken = VOCODER.generate(features, noise(frames * 384))
    assert spoken.shape == (1, frames * 384)
    torch.testing.assert_close(spoken[:, :num_samples], waveform, atol=1e-5 * level, rtol=0)


def test_gains_fill_in_noise_of_that_power_in_their_bins():
    features = torch.zeros(1, 500, 3 * BINS)
    features[..., 2 * BINS + 100 : 2 * BINS + 200] = 0.01**0.3
    given = noise(500 * 384)
    spoken = VOCODER.generate(features, given)
    spectrum = torch.fft.rfft(spoken[0]).abs().square()
    hz = torch.fft.rfftfreq(500 * 384, 1 / 24000)
    inside = (hz > 31.25 * 99) & (hz < 31.25 * 201)
    assert spectrum[inside].sum() > 0.99 * spectrum.sum()
    same = VOCODER.generate(features[:, 100:], given[:, 100 * 384 :])
    # Noise is read by its place in the signal: only the frame at the cut has heard other samples.
    torch.testing.assert_close(same[:, 768:], spoken[:, 100 * 384 + 768 :], atol=1e-6, rtol=0)


def test_features_of_another_encoder_are_refused():
    with pytest.raises(UserError, match="not of 128 at 80"):
        build(VOCODERS, {"name": "istft", **SPEC}, 128, 80.0)


def test_gradients_reach_the_features():
    features, _ = ENCODER(noise(3840), torch.tensor([3840]))
    features.requires_grad_()
    VOCODER(features, noise(3840)).square().sum().backward()
    assert (
        features.grad.abs().amax((0, 1)) > 0
    ).sum() > 3 * BINS - 10  # 0 Hz has no imaginary part
