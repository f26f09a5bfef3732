"""Distances in compressed spectra on signals with known answers."""

import math

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.losses import CompressedSpectrumConfig, CompressedSpectrumLoss
from open_miipher.losses.compressed import top_of_band

RATE = 8000
LENGTH = torch.tensor([4000])


@pytest.fixture
def loss():
    return CompressedSpectrumLoss(RATE, CompressedSpectrumConfig([128, 1024], 20))


def noise(seed: int = 0, length: int = 4000) -> torch.Tensor:
    return torch.randn(1, length, generator=torch.Generator().manual_seed(seed))


def low(waveform: torch.Tensor, part: int = 2) -> torch.Tensor:
    """What of it lies below a part of half the sample rate."""
    spectrum = torch.fft.rfft(waveform)
    spectrum[..., spectrum.shape[-1] // part :] = 0
    return torch.fft.irfft(spectrum)


def test_equal_waveforms_have_no_distance(loss):
    estimate = noise().requires_grad_()
    losses = loss(noise(), estimate, LENGTH)
    assert max(losses.values()) < 1e-9
    sum(losses.values()).backward()
    assert estimate.grad.isfinite().all()


def test_a_scaled_copy_has_the_known_distances(loss):
    """Magnitudes go to the power 0.3, so that a factor a changes them by |a|^0.3."""
    losses = loss(noise(), -8 * noise(), LENGTH)
    silent = loss(noise(), 0 * noise(), LENGTH)  # the mean of |S|^0.6
    assert losses["magnitude"] / silent["complex"] == pytest.approx((8**0.3 - 1) ** 2, rel=0.05)
    assert losses["complex"] / silent["complex"] == pytest.approx((8**0.3 + 1) ** 2, rel=0.05)
    assert losses["log_mel"] == pytest.approx(math.log(8), rel=0.05)


def test_bins_that_the_target_has_not_are_not_looked_at(loss):
    length = torch.tensor([16000])
    whole, other = noise(1, 16000), noise(2, 16000)
    target, above = low(whole), other - low(other)
    target += low(target, 4) * 100  # as of speech, the top of the band is weak
    losses = loss(target, target + above, length)
    tone = 0.1 * torch.sin(torch.arange(16000) * 2 * math.pi * 3950 / RATE)
    wide = loss(target + tone, target + tone + above, length)  # reaches up to the tone
    for name, value in losses.items():
        assert value < 0.2 * wide[name], name  # the windows' edges are seen


def test_a_silent_target_asks_for_silence_everywhere(loss):
    silence = torch.zeros(1, 4000)
    loud, quiet = (loss(silence, level * noise(), LENGTH) for level in (1.0, 0.01))
    for name in loud:
        assert loud[name] > 1.5 * quiet[name] > 0, name
    assert max(loss(silence, silence, LENGTH).values()) == 0


def test_padding_and_company_change_nothing(loss):
    short, other = noise(3, 2000), noise(4, 2000)
    alone = loss(short, other, torch.tensor([2000]))
    longer = [torch.nn.functional.pad(x, (0, 2000)) for x in (short, other)]
    batch = [torch.cat([a, b]) for a, b in zip(longer, (noise(5), noise(6)), strict=True)]
    together = loss(*batch, torch.tensor([2000, 4000]))
    second = loss(noise(5), noise(6), LENGTH)
    for name in alone:
        mean = (alone[name] + second[name]) / 2
        # A frame at the end of the short one hears zeros instead of nothing.
        assert together[name].item() == pytest.approx(mean.item(), rel=0.03), name


def test_the_band_ends_at_the_highest_bin_there_is():
    frames = torch.tensor([[1.0, 0.0, 1e-3, 1e-12, 0.0]]).expand(6, 5).clone()
    frames[0] = 1  # a crop that begins in the middle of a sound
    energy = torch.stack([frames, torch.zeros(6, 5), frames])
    is_valid = torch.ones(3, 6, dtype=torch.bool)
    is_valid[2, 1:] = False
    # 9 % below the end, where resampling has faded out; a whole band has no such end.
    assert top_of_band(energy, is_valid).tolist() == pytest.approx([0.5 * 0.91, 1.0, 1.0])


@pytest.mark.parametrize("fields", [{"n_ffts": []}, {"n_ffts": [2]}, {"n_mels": 0}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(UserError, match="at least one window"):
        CompressedSpectrumLoss(RATE, CompressedSpectrumConfig(**fields))
