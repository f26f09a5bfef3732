"""What the trained demo chain must show (`pretrained/demo`): seams, pauses, lengths."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from open_miipher.audio.resample import resample
from open_miipher.base.noise import noise_key, white_noise
from open_miipher.restoration import Chain, RestoreOptions, Restorer

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "pretrained/demo"
RATE = 24000
CHUNKS = {"chunk_seconds": 2.0, "overlap_seconds": 0.6}

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not DEMO.exists(), reason="pretrained/demo is not there"),
]


@pytest.fixture(scope="module")
def model() -> Chain:
    return Chain.from_checkpoint(DEMO)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Ten seconds of the demo's held-back speech at 24 kHz, a little noisy."""
    files = sorted((ROOT / "dataset/demo/speech/test").rglob("*.flac"))
    clips = []
    for path in files:
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clips.append(resample(waveform[:, 0], rate, RATE))
    joined = np.concatenate(clips)
    joined = np.tile(joined, math.ceil(10 * RATE / len(joined)))[: 10 * RATE]
    return joined + noise(len(joined), 0.02 * rms(joined))


def noise(num_samples: int, level: float) -> np.ndarray:
    return (level * np.random.default_rng(1).standard_normal(num_samples)).astype(np.float32)


def rms(waveform: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))) + 1e-20)


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


@pytest.mark.slow
def test_a_minute_of_noise_comes_back_at_least_10_db_lower(model, speech) -> None:
    pause = noise(60 * RATE, 0.1 * rms(speech))
    waveform = np.concatenate([speech[: 5 * RATE], pause, speech[5 * RATE :]])
    restored, _ = Restorer(model).restore(waveform, RATE)
    middle = slice(6 * RATE, 64 * RATE)
    lowered = decibels(rms(waveform[middle]) / rms(restored[middle]))
    print(f"noise-only pause: {lowered:.1f} dB lower")
    assert lowered >= 10


@pytest.mark.slow
def test_the_level_step_at_a_seam_is_at_most_1_db(model, speech) -> None:
    """At the command's own chunks: how the level error moves from one 50 ms to the next."""
    options = RestoreOptions()
    waveform = np.tile(speech, 6)
    chunked, _ = Restorer(model, options).restore(waveform, RATE)
    whole, _ = Restorer(model, RestoreOptions(chunk_seconds=60)).restore(waveform, RATE)
    difference = decibels(rms(chunked - whole) / rms(whole))
    print(f"chunked against unchunked: the difference lies at {difference:.1f} dB of the signal")

    grid, hop, window = options.grid(model), model.output_hop, RATE // 20
    steps = []
    for start, _ in list(grid.bounds(len(waveform) // hop))[1:]:
        overlap = range(start * hop, (start + grid.overlap_frames) * hop, window)
        windows = [slice(place, place + window) for place in overlap]
        errors = [decibels(rms(chunked[w]) / rms(whole[w])) for w in windows]
        heard = [rms(whole[w]) > 0.05 * rms(whole) for w in windows]
        pairs = zip(itertools.pairwise(errors), itertools.pairwise(heard), strict=True)
        steps.append(max(abs(b - a) for (a, b), both in pairs if all(both)))
    print(f"level steps at the seams: {', '.join(f'{step:.2f}' for step in steps)} dB")
    assert len(steps) == 3
    assert max(steps) <= 1


def test_overlapping_chunks_draw_the_same_noise_at_the_same_sample(
    model, speech, monkeypatch
) -> None:
    drawn: list[Tensor] = []
    generate = model.vocoder.generate

    def spy(features: Tensor, noise: Tensor) -> Tensor:
        drawn.extend(noise)
        return generate(features, noise)

    monkeypatch.setattr(model.vocoder, "generate", spy)
    options = RestoreOptions(seed=5, **CHUNKS)
    Restorer(model, options, batch_size=2).restore(speech[: 5 * RATE], RATE)
    bounds = list(options.grid(model).bounds(5 * RATE // model.input_hop))
    assert len(drawn) == len(bounds) > 2
    [stream] = white_noise(noise_key(5), torch.zeros(1, dtype=torch.int64), 5 * RATE)
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
