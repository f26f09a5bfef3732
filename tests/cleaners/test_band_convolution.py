"""The small restorer's cleaner: level, reach, and what it can make of a spectrum."""

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import ENCODERS

STFT = {"name": "stft", "sample_rate": 8000, "n_fft": 64, "hop_length": 32}
SPEC = {
    "name": "band_convolution",
    "width": 8,
    "bands": [[4, 4], [8, 2]],
    "dilations": [1, 2],
    "full_band_width": 6,
    "full_band_dilations": [1, 1],
    "level_seconds": 0.02,  # 5 frames
}
BINS = 33


def make(weights: float = 0.2, **changes):
    """A cleaner with weights that do something."""
    cleaner = build(CLEANERS, {**SPEC, **changes}, build(ENCODERS, STFT))
    generator = torch.Generator().manual_seed(1)
    for parameter in cleaner.parameters():
        parameter.data += weights * torch.randn(parameter.shape, generator=generator)
    return cleaner


def noise(frames: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, 32 * frames, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def clean(cleaner, waveform):
    return cleaner(waveform, torch.tensor([waveform.shape[1]]))[0]


@pytest.mark.parametrize("factor", [1e-4, 30.0])
def test_the_level_of_the_input_changes_nothing_but_that_of_the_output(factor):
    cleaner, waveform = make(), noise(50)
    expected = clean(cleaner, waveform) * factor**0.3
    scaled = clean(cleaner, factor * waveform)
    torch.testing.assert_close(scaled, expected, atol=1e-4 * factor**0.3, rtol=1e-3)


def test_silence_stays_silent_and_finite():
    cleaner = make()
    assert clean(cleaner, torch.zeros(1, 640)).abs().max() < 1e-4
    half = noise(40)
    half[:, 640:] = 0
    assert clean(cleaner, half)[:, 20 + 1 + cleaner.receptive_frames :].abs().max() < 1e-4


def test_a_frame_depends_on_no_more_than_the_stated_frames():
    cleaner, waveform = make(), noise(60)
    reach = cleaner.receptive_frames
    assert reach == 5 + 1 + 3 + 2
    other = waveform.clone()
    other[:, 30 * 32 :] += noise(30, seed=1)
    before, after = clean(cleaner, waveform), clean(cleaner, other)
    first = 30 - 1 - reach  # frame 29 already hears sample 30 · 32
    torch.testing.assert_close(after[:, :first], before[:, :first], atol=1e-6, rtol=0)
    assert (after[:, first + 1 :] - before[:, first + 1 :]).abs().amax(2).min() > 1e-5


def test_chunks_that_overlap_by_twice_the_reach_agree_in_the_middle():
    cleaner, waveform = make(), noise(80)
    reach = cleaner.receptive_frames + 1
    whole = clean(cleaner, waveform)
    first, second = clean(cleaner, waveform[:, : 50 * 32]), clean(cleaner, waveform[:, 30 * 32 :])
    torch.testing.assert_close(first[:, : 50 - reach], whole[:, : 50 - reach], atol=1e-5, rtol=0)
    torch.testing.assert_close(second[:, reach:], whole[:, 30 + reach :], atol=1e-5, rtol=0)


def test_outputs_have_the_effects_that_their_names_say():
    cleaner = make(weights=0.0)
    bias = [layer.bias.data for layer in cleaner.synthesis]
    waveform = noise(50)
    features, _ = cleaner.encoder(waveform, torch.tensor([1600]))

    def with_bias(output: int, value: float) -> torch.Tensor:
        for values, (size, _) in zip(bias, cleaner.groups, strict=True):
            values.zero_().view(5, size)[output] = value
        return clean(cleaner, waveform)

    real, imaginary, gains = features.split(BINS, dim=2)
    assert not gains.any()
    torch.testing.assert_close(with_bias(0, -1.0), torch.zeros_like(features))
    turned = torch.cat([real - imaginary, imaginary + real, gains], dim=2)
    torch.testing.assert_close(with_bias(1, 1.0), turned, atol=1e-5, rtol=1e-4)
    copied = with_bias(2, 0.5) - features
    shift = cleaner.shifts[0]
    assert cleaner.shifts == [8, 16]
    assert not copied[..., :shift].any()
    phase = torch.atan2(imaginary, real)[..., :-shift]
    heights = torch.hypot(*copied.split(BINS, dim=2)[:2])[..., shift:]
    torch.testing.assert_close(copied[..., shift:BINS], heights * phase.cos(), atol=1e-4, rtol=1e-3)
    level = (real.square() + imaginary.square()).mean((1, 2)).sqrt()
    assert heights.mean() == pytest.approx(0.5 * level.item(), rel=0.1)
    filled = with_bias(4, 0.5)
    torch.testing.assert_close(filled[..., : 2 * BINS], features[..., : 2 * BINS])
    assert filled[..., 2 * BINS :].mean() == pytest.approx(0.5 * level.item(), rel=0.1)


def test_48_khz_is_a_matter_of_sizes():
    spec = {"name": "stft", "sample_rate": 48000, "n_fft": 1536, "hop_length": 768}
    cleaner = build(
        CLEANERS, {"name": "band_convolution", "bands": [[12, 32], [48, 8]]}, build(ENCODERS, spec)
    )
    waveform = torch.randn(1, 7680)
    features, _ = cleaner.encoder(waveform, torch.tensor([7680]))
    assert torch.equal(clean(cleaner, waveform), features)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": [[4, 4]]}, "cover 16 bins, but the encoder's n_fft=64 has 32"),
        ({"bands": [[-4, -8]]}, "change model.cleaner.bands"),
        ({"dilations": [0]}, "must be above 0"),
        ({"full_band_dilations": [0]}, "must be above 0"),
        ({"level_seconds": 0.0}, "level_seconds=0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_another_encoder_is_refused():
    with pytest.raises(UserError, match=r"model\.encoder\.name=stft alone"):
        build(CLEANERS, SPEC, build(ENCODERS, {"name": "log_mel"}))
