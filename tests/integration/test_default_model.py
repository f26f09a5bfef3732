"""What the model that comes with the project promises, on fixed inputs with stated bounds."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from open_miipher.audio.resample import resample
from open_miipher.base.noise import noise_key, white_noise
from open_miipher.evaluation.measures import Signal, log_spectral_distance
from open_miipher.restoration import DEFAULT_MODEL, Chain, RestoreOptions, Restorer

ROOT = Path(__file__).resolve().parents[2]
RATE = 24000
CHUNKS = {"chunk_seconds": 2.0, "overlap_seconds": 0.6}

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model() -> Chain:
    return Chain.from_checkpoint()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Ten seconds of the demo's held-back speech at 24 kHz; synthetic, so nothing it learnt."""
    files = sorted((ROOT / "dataset/demo/speech/test").rglob("*.flac"))
    clips = []
    for path in files:
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clips.append(resample(waveform[:, 0], rate, RATE))
    joined = np.concatenate(clips)
    return np.tile(joined, math.ceil(10 * RATE / len(joined)))[: 10 * RATE]


def noise(num_samples: int, level: float) -> np.ndarray:
    return (level * np.random.default_rng(1).standard_normal(num_samples)).astype(np.float32)


def snr(restored: np.ndarray, clean: np.ndarray) -> float:
    return decibels(rms(clean) / rms(restored - clean))


def distance_of(restored: np.ndarray, clean: np.ndarray) -> float:
    signals = Signal(restored, RATE), Signal(clean, RATE)
    return log_spectral_distance(*signals)["log_spectral_distance"]


def rms(waveform: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))) + 1e-20)


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


def test_it_is_small_and_named_in_manifests(model) -> None:
    size = sum(path.stat().st_size for path in DEFAULT_MODEL.iterdir())
    assert size <= 16.5e6
    assert sum(weights.numel() for weights in model.cleaner.parameters()) <= 4e6
    assert model.fingerprint.startswith("default-")


def test_clean_speech_is_kept(model, speech) -> None:
    restored, _ = Restorer(model).restore(speech, RATE)
    distance = distance_of(restored, speech)
    print(f"clean speech: {distance:.2f} dB away, {snr(restored, speech):.1f} dB SNR")
    assert distance <= 4
    assert snr(restored, speech) >= 15


def test_noise_goes_and_speech_stays(model, speech) -> None:
    noisy = speech + noise(len(speech), rms(speech) * 10 ** (-5 / 20))
    restored, _ = Restorer(model).restore(noisy, RATE)
    print(f"SNR {snr(noisy, speech):.1f} -> {snr(restored, speech):.1f} dB")
    assert snr(restored, speech) >= snr(noisy, speech) + 3
    assert distance_of(restored, speech) <= distance_of(noisy, speech) - 8


def test_a_pause_in_noise_becomes_at_least_15_db_quieter(model, speech) -> None:
    waveform = np.concatenate([speech[: 5 * RATE], np.zeros(8 * RATE, "f4"), speech[5 * RATE :]])
    waveform += noise(len(waveform), 0.1 * rms(speech))
    restored, _ = Restorer(model, RestoreOptions(**CHUNKS)).restore(waveform, RATE)
    middle = slice(6 * RATE, 12 * RATE)
    lowered = decibels(rms(waveform[middle]) / rms(restored[middle]))
    print(f"noise-only pause: {lowered:.1f} dB lower")
    assert lowered >= 15


def test_the_input_level_changes_nothing_but_the_level(model, speech) -> None:
    restorer = Restorer(model)
    loud, _ = restorer.restore(speech[: 3 * RATE], RATE)
    quiet, _ = restorer.restore(0.01 * speech[: 3 * RATE], RATE)
    assert decibels(rms(100 * quiet - loud) / rms(loud)) <= -60


def test_chunks_at_the_commands_own_size_agree_with_the_whole(model, speech) -> None:
    """So nothing is heard where they meet: a click would be a step in the difference."""
    waveform = np.tile(speech, 6)
    chunked, _ = Restorer(model, RestoreOptions()).restore(waveform, RATE)
    whole, _ = Restorer(model, RestoreOptions(chunk_seconds=60)).restore(waveform, RATE)
    difference = chunked - whole
    print(f"chunks against the whole: {decibels(rms(difference) / rms(whole)):.1f} dB")
    assert decibels(rms(difference) / rms(whole)) <= -40
    steps = np.abs(np.diff(difference))
    assert steps.max() <= 0.01 * np.abs(whole).max()


def test_what_lies_above_its_band_is_kept_at_the_inputs_rate(model, speech) -> None:
    speech_48k = resample(speech[: 4 * RATE], RATE, 48000)
    hiss = np.random.default_rng(2).standard_normal(len(speech_48k))
    hiss = hiss - resample(resample(hiss.astype("f4"), 48000, RATE), RATE, 48000)
    waveform = (speech_48k + 0.1 * hiss * np.abs(speech_48k)).astype(np.float32)
    options = RestoreOptions(sample_rate="input", channels="each")
    restored, rate = Restorer(model, options).restore(waveform, 48000)
    assert rate == 48000
    before, after = (np.abs(np.fft.rfft(x))[-len(x) // 5 :] for x in (waveform, restored))
    kept = np.sum(after**2) / np.sum(before**2)
    print(f"above 14 kHz: {kept:.2f} of the power kept")
    assert 0.5 <= kept <= 1.01


def test_overlapping_chunks_draw_the_same_noise_at_the_same_sample(
    model, speech, monkeypatch
) -> None:
    drawn: list[Tensor] = []
    generate = model.vocoder.generate

    def spy(features: Tensor, noise: Tensor, frame_lengths: Tensor | None) -> Tensor:
        drawn.extend(noise)
        return generate(features, noise, frame_lengths)

    monkeypatch.setattr(model.vocoder, "generate", spy)
    options = RestoreOptions(seed=5, **CHUNKS)
    Restorer(model, options, batch_size=2).restore(speech[: 5 * RATE], RATE)
    bounds = list(options.grid(model).bounds(-(-5 * RATE // model.input_hop)))
    assert len(drawn) == len(bounds) > 2
    [stream] = white_noise(noise_key(5), torch.zeros(1, dtype=torch.int64), 6 * RATE)
    for (start, end), chunk in zip(bounds, drawn, strict=True):
        expected = stream[start * model.output_hop : end * model.output_hop]
        np.testing.assert_array_equal(chunk.numpy(), expected.numpy())


def test_forty_awkward_lengths_are_exact(model, speech) -> None:
    options = RestoreOptions(sample_rate="input", chunk_seconds=0.5, overlap_seconds=0.1)
    restorer = Restorer(model, options)
    lengths = [1, 2, 149, 150, 151, 299, 300, 301, 12000, 12001]
    cases = [(n, rate) for n in lengths for rate in (8000, 24000, 44100, 192000)]
    for num_samples, rate in cases:
        restored, rate_out = restorer.restore(speech[:num_samples], rate)
        assert (len(restored), rate_out) == (num_samples, rate)
        assert np.isfinite(restored).all()


def test_silence_stays_silence_and_changes_nothing_after_it(model, speech) -> None:
    options = RestoreOptions(**CHUNKS)
    gap = np.zeros(6 * RATE, dtype=np.float32)
    first, last = speech[: 3 * RATE], speech[-3 * RATE :]
    after_speech, _ = Restorer(model, options).restore(np.concatenate([first, gap, last]), RATE)
    after_silence, _ = Restorer(model, options).restore(
        np.concatenate([0 * first, gap, last]), RATE
    )
    assert not after_speech[6 * RATE : 7 * RATE].any()
    np.testing.assert_allclose(after_speech[-3 * RATE :], after_silence[-3 * RATE :], atol=1e-5)
