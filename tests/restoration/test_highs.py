"""Above the model's band the input's own is kept, as quiet as the model made the rest."""

import numpy as np
import pytest

from open_miipher.restoration import RestoreOptions, Restorer

RATE, MODEL_RATE = 48000, 8000


def noise(seconds=2.0):
    return np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1


def above(waveform, hz):
    """Level of what lies above a frequency, RMS."""
    spectrum = np.fft.rfft(waveform)
    spectrum[: int(hz * len(waveform) / RATE)] = 0
    return np.sqrt(np.mean(np.fft.irfft(spectrum) ** 2))


def restored(model, waveform, **options):
    options = RestoreOptions(sample_rate="input", channels="each", **options)
    return Restorer(model, options).restore(waveform, RATE)[0]


@pytest.mark.parametrize("chunk_seconds", [20.0, 0.5])
def test_what_a_model_leaves_alone_comes_back_whole(stand_in, chunk_seconds):
    options = {"chunk_seconds": chunk_seconds, "overlap_seconds": 0.1}
    waveform = np.stack([noise(), -0.3 * noise()])
    # Resampling leaves little of the last samples before the end.
    np.testing.assert_allclose(
        restored(stand_in("same"), waveform, **options)[:, :-200], waveform[:, :-200], atol=2e-3
    )


def test_what_a_model_takes_away_goes_above_its_band_too(stand_in):
    waveform = noise()
    output = restored(stand_in("quieter later"), waveform)
    half = len(waveform) // 2
    margin = RATE // 20
    first, second = slice(0, half - margin), slice(half + margin, None)
    assert above(output[first], 6000) == pytest.approx(above(waveform[first], 6000), rel=0.05)
    assert above(output[second], 6000) == pytest.approx(
        0.1 * above(waveform[second], 6000), rel=0.1
    )


def test_nothing_is_added_at_the_models_rate_or_to_a_silent_input(stand_in):
    waveform = noise()
    output, rate = Restorer(stand_in("same")).restore(waveform, RATE)
    assert rate == MODEL_RATE
    assert len(output) == len(waveform) * MODEL_RATE // RATE
    assert not restored(stand_in("same"), np.zeros(RATE, dtype=np.float32)).any()
