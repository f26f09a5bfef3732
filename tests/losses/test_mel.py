import math

import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from open_miipher.base.errors import UserError
from open_miipher.losses import MultiScaleMelConfig, MultiScaleMelLoss

RATE = 48000


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_equals_the_mel_spectra_of_another_library():
    """DAC's: Hann windows, hop a quarter, Slaney's scale and areas, magnitudes, log10 from 1e-5."""
    target, estimate = noise(2, 9600), noise(3, 9600)[1:]
    expected = torch.zeros(())
    config = MultiScaleMelConfig()
    for n_mels, size in zip(config.n_mels, config.win_lengths, strict=True):
        mel = MelSpectrogram(
            RATE, size, size, size // 4, n_mels=n_mels, power=1.0, norm="slaney",
            mel_scale="slaney", pad_mode="constant",
        )  # fmt: skip
        spectra = [mel(x).clamp_min(1e-5).log10() for x in (target, estimate)]
        expected += (spectra[0] - spectra[1]).abs().mean()
    loss = MultiScaleMelLoss(RATE, config)(target, estimate)["mel"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_half_the_level_is_the_known_distance():
    target = noise(2, 9600)
    loss = MultiScaleMelLoss(RATE, MultiScaleMelConfig([20, 40], [256, 512], 1e-9))
    value = loss(target, torch.stack([target, target / 2]))["mel"]
    assert value == pytest.approx((0 + 2 * math.log10(2)) / 2, rel=1e-3)


def test_silence_has_finite_values_and_gradients():
    loss = MultiScaleMelLoss(RATE, MultiScaleMelConfig())
    estimate = torch.zeros(1, 4800, requires_grad=True)
    value = loss(noise(1, 4800), estimate)["mel"]
    value.backward()
    assert value.isfinite()
    assert estimate.grad.isfinite().all()
    assert loss(torch.zeros(1, 4800), torch.zeros(1, 4800))["mel"] == 0


def test_mean_over_samples():
    target, estimate = noise(3, 4800), noise(6, 4800)[3:]
    loss = MultiScaleMelLoss(RATE, MultiScaleMelConfig())
    alone = [loss(t[None], e[None])["mel"] for t, e in zip(target, estimate, strict=True)]
    torch.testing.assert_close(loss(target, estimate)["mel"], sum(alone) / 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MultiScaleMelConfig([5], [32, 64]), "one entry a scale"),
        (MultiScaleMelConfig([], []), "one entry a scale"),
        (MultiScaleMelConfig([0], [32]), "at least 1 band"),
        (MultiScaleMelConfig([5], [2]), "windows of 4"),
    ],
)
def test_scales_without_meaning_are_refused(config, words):
    with pytest.raises(UserError, match=words):
        MultiScaleMelLoss(RATE, config)
