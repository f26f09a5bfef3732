"""A signal's own statistics, taken in a first pass, reach every one of its chunks."""

from collections.abc import Iterator

import numpy as np
import pytest

from open_miipher.audio.io import AudioError
from open_miipher.audio.mixing import mix_of
from open_miipher.audio.resample import resample
from open_miipher.restoration import RestoreOptions, Restorer, Source, job
from open_miipher.restoration.streams import ArraySink

RATE = 8000
SMALL = {"chunk_seconds": 0.1, "overlap_seconds": 0.02, "channels": "each"}  # 800 and 160 samples
RNG = np.random.default_rng(0)


def drifting(num_samples: int, num_channels: int = 1) -> np.ndarray:
    """Noise whose mean moves, another one in every channel."""
    line = np.linspace(0.1, 0.5, num_samples) * np.arange(1, num_channels + 1)[:, None]
    return (line + 0.1 * RNG.standard_normal((num_channels, num_samples))).astype(np.float32)


@pytest.mark.parametrize("rate_in", [8000, 11025, 16000])
@pytest.mark.parametrize("channels", ["each", "mono"])
def test_every_chunk_is_normalised_by_the_whole_resampled_signal(stand_in, rate_in, channels):
    model, waveform = stand_in("centred"), drifting(9001, num_channels=2)
    options = RestoreOptions(**{**SMALL, "channels": channels})
    restored, _ = Restorer(model, options).restore(waveform, rate_in)
    heard = waveform if channels == "each" else mix_of([waveform]).apply(waveform)
    heard = resample(heard, rate_in, RATE)
    np.testing.assert_allclose(restored, heard - heard.mean(1, keepdims=True), atol=2e-6)
    assert len(model.measured) == 1


def test_by_chunks_neighbours_differ_and_the_source_is_read_once(stand_in):
    model, waveform = stand_in("centred"), drifting(2000)
    options = RestoreOptions(**SMALL, normalise_over="chunk")
    restored, _ = Restorer(model, options).restore(waveform, RATE)
    assert not model.measured
    assert not any(model.given)
    first = waveform[:, :800].mean()
    np.testing.assert_allclose(restored[:, :600], waveform[:, :600] - first, atol=1e-6)
    assert abs(restored.mean() - (waveform - waveform.mean()).mean()) < 0.02
    assert np.abs(restored - (waveform - waveform.mean())).max() > 0.1


@pytest.mark.parametrize(("num_kept", "reads"), [(4000, 1), (3999, 3)])
def test_a_long_signal_is_read_again_rather_than_kept(stand_in, monkeypatch, num_kept, reads):
    monkeypatch.setattr(job, "KEPT_SAMPLES", num_kept)
    waveform, opened = drifting(2000, num_channels=2), []

    def blocks() -> Iterator[np.ndarray]:
        opened.append(True)
        yield from np.split(waveform, [500, 1700], axis=1)

    restorer = Restorer(stand_in("centred"), RestoreOptions(**SMALL))
    work = restorer.job(Source("long", RATE, 2000, 2, blocks), sink := ArraySink())
    assert list(restorer.restore_jobs([work])) == [work]
    expected = waveform - waveform.mean(1, keepdims=True)
    np.testing.assert_allclose(sink.waveform, expected, atol=2e-6)
    assert len(opened) == reads


@pytest.mark.parametrize("num_samples", [1, 799, 800])
def test_a_file_of_one_chunk_is_read_once_and_comes_out_the_same(stand_in, num_samples):
    waveform = drifting(num_samples)
    by_file, by_chunk = (
        Restorer(model := stand_in("centred"), RestoreOptions(**SMALL, normalise_over=over))
        for over in ("file", "chunk")
    )
    np.testing.assert_array_equal(
        by_file.restore(waveform, RATE)[0], by_chunk.restore(waveform, RATE)[0]
    )
    assert not model.measured


def test_what_does_not_need_the_statistics_does_not_take_them(stand_in):
    waveform = drifting(2000)
    unheard = stand_in("centred")
    Restorer(unheard, RestoreOptions(**SMALL, strength=0)).restore(waveform, RATE)
    assert not unheard.measured
    restored, _ = Restorer(stand_in("same"), RestoreOptions(**SMALL)).restore(waveform, RATE)
    np.testing.assert_allclose(restored, waveform, atol=1e-6)


def test_signals_in_one_batch_keep_their_own_statistics(stand_in):
    """Also beside a signal of exactly one chunk, which has none."""
    waveforms = [drifting(2240), 3 * drifting(2240), drifting(800), -drifting(1440), drifting(30)]
    model = stand_in("centred")
    restorer = Restorer(model, RestoreOptions(**SMALL), batch_size=4)
    jobs = [restorer.job(Source.from_array(w, RATE), ArraySink()) for w in waveforms]
    assert len(list(restorer.restore_jobs(jobs))) == len(jobs)
    for done, waveform in zip(jobs, waveforms, strict=True):
        expected = waveform - waveform.mean(1, keepdims=True)
        np.testing.assert_allclose(done.sink.waveform, expected, atol=2e-6)
    assert len(model.measured) == 3
    assert {True, False} == set(model.given)
    assert (4, 800) in model.batches


def test_a_source_that_fails_in_the_first_pass_is_given_up_and_the_others_go_on(stand_in):
    def blocks() -> Iterator[np.ndarray]:
        yield drifting(500)
        raise AudioError("it ends early")

    restorer = Restorer(stand_in("centred"), RestoreOptions(**SMALL))
    jobs = [
        restorer.job(Source("bad.wav", RATE, 5000, 1, blocks), ArraySink()),
        restorer.job(Source.from_array(drifting(1700), RATE), ArraySink()),
    ]
    assert set(restorer.restore_jobs(jobs)) == set(jobs)
    assert "it ends early" in str(jobs[0].error)
    assert jobs[1].error is None
