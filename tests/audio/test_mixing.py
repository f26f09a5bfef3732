"""Channels that become one: nothing is cancelled, and speech stays as loud as it was."""

import numpy as np
import pytest

from open_miipher.audio.mixing import mix_of

RNG = np.random.default_rng(0)
VOICE = (0.2 * np.sin(np.arange(24000) / 9) * (np.arange(24000) % 8000 < 5000)).astype(np.float32)
OTHER = (0.05 * RNG.standard_normal(24000)).astype(np.float32)
ZERO = np.zeros_like(VOICE)


@pytest.mark.parametrize(
    ("channels", "expected", "how"),
    [
        ([VOICE, VOICE], VOICE, "mean of 2 channels"),
        ([VOICE, ZERO], VOICE, "mean of 2 channels, raised by 6.0 dB"),
        ([ZERO, ZERO, VOICE, ZERO, ZERO, ZERO], VOICE, "mean of 6 channels, raised by 15.6 dB"),
        ([VOICE, 0.25 * VOICE, ZERO], VOICE, "mean of 3 channels, raised by 7.6 dB"),
        ([VOICE, -VOICE], VOICE, "channel 1 of 2, because their mean cancels"),
        ([0.9 * VOICE, -VOICE], -VOICE, "channel 2 of 2, because their mean cancels"),
        ([VOICE + 0.1 * OTHER, -VOICE], VOICE + 0.1 * OTHER, "channel 1 of 2, because their"),
        ([VOICE, ZERO + 0.4], VOICE + 0.4, "mean of 2 channels, raised by 6.0 dB"),
        ([ZERO, ZERO], ZERO, "mean of 2 channels"),
        ([ZERO + 0.1, ZERO - 0.1], ZERO, "mean of 2 channels"),
    ],
)
def test_the_mix_is_as_loud_as_the_loudest_channel(channels, expected, how: str) -> None:
    waveform = np.stack(channels)
    mix = mix_of(np.array_split(waveform, 7, axis=1))
    assert mix.how.startswith(how)
    np.testing.assert_allclose(mix.apply(waveform)[0], expected, atol=1e-6)
    assert mix.apply(waveform).dtype == np.float32


@pytest.mark.parametrize(("peak", "least"), [(0.2, 0.99), (1.0, 0.75)])
def test_channels_with_nothing_in_common_are_both_heard_and_do_not_clip(peak, least) -> None:
    speakers = np.stack([VOICE, np.roll(VOICE, 4000)]) * np.float32(peak / 0.2)
    mixed = mix_of([speakers]).apply(speakers)[0]
    rms = np.sqrt(np.square(speakers).mean(axis=1))
    assert least < np.sqrt(np.square(mixed).mean()) / rms[0] < 1.01
    assert np.abs(mixed).max() <= 1 + 1e-6
