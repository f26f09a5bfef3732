"""A signal pushed block by block becomes what it does as a whole; memory and delay are bounded."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.restoration import Chain, RestoreOptions, Restorer, Stream
from open_miipher.restoration import job as job_module

RATE = 8000
OPTIONS = RestoreOptions(chunk_seconds=0.5, overlap_seconds=0.1, normalise_over="past")


def speech(seconds: float, rate: int = RATE, channels: int | None = None) -> np.ndarray:
    """Bursts of a gliding tone in hiss, louder and louder; a channel is softer than the one
    before."""
    t = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (300 + 40 * t) * t) * (t % 0.4 < 0.25) * (0.02 + 0.1 * t / seconds)
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(t))
    mono = (tone + hiss).astype(np.float32)
    return mono if channels is None else np.stack([mono / (1 + c) for c in range(channels)])


def streamed(stream: Stream, waveform: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Push a waveform in blocks of these sizes, in turn; join what comes back."""
    restored, start = [], 0
    for size in itertools.cycle(sizes):
        restored.append(stream.push(waveform[..., start : start + size]))
        start += size
        if start >= waveform.shape[-1]:
            return np.concatenate([*restored, stream.finish()], axis=-1)
    raise AssertionError


SIZES = {"single samples": [1], "odd": [997, 1, 0, 80, 4001], "at once": [1 << 20]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", ["same", "finite", "peak", "garbage", "centred"])
def test_any_blocks_become_what_the_whole_does(stand_in, kind, sizes):
    restorer = Restorer(stand_in(kind), OPTIONS, batch_size=1)
    waveform = speech(1.3)
    expected, rate = restorer.restore(waveform, RATE)
    stream = restorer.stream(RATE)
    np.testing.assert_array_equal(streamed(stream, waveform, sizes), expected)
    assert stream.sample_rate == rate


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("rate_out", ["model", "input", 44100])
@pytest.mark.parametrize("rate_in", [8000, 11025, 48000])
def test_any_rates_and_strengths_too(stand_in, rate_in, rate_out, strength):
    """The upper band of the input, and its share, are found in what was pushed."""
    options = replace(OPTIONS, sample_rate=rate_out, strength=strength, channels="each")
    restorer = Restorer(stand_in("finite"), options, batch_size=1)
    waveform = speech(1.7, rate_in, channels=2)
    expected, _ = restorer.restore(waveform, rate_in)
    restored = streamed(restorer.stream(rate_in), waveform, [rate_in // 90, 5, 7000])
    np.testing.assert_array_equal(restored, expected)


@pytest.mark.parametrize("num_samples", [1, 2, 79, 3999, 4000, 4001, 7200, 7201])
@pytest.mark.parametrize("overlap_seconds", [0.0, 0.1, 0.25])
def test_every_length_comes_out_exactly(stand_in, num_samples, overlap_seconds):
    options = replace(OPTIONS, sample_rate=11025, overlap_seconds=overlap_seconds)
    restorer = Restorer(stand_in("finite"), options, batch_size=1)
    waveform = speech(1.0)[:num_samples]
    expected, _ = restorer.restore(waveform, RATE)
    np.testing.assert_array_equal(streamed(restorer.stream(RATE), waveform, [1999]), expected)


def test_a_signal_of_one_chunk_becomes_what_a_file_does(stand_in):
    restorer = Restorer(stand_in("peak"), RestoreOptions())
    waveform = speech(3.0)
    expected, _ = restorer.restore(waveform, RATE)
    np.testing.assert_array_equal(streamed(restorer.stream(RATE), waveform, [400]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_default_model_gives_the_same_block_by_block(rate):
    chain = Chain.from_checkpoint()
    options = replace(OPTIONS, chunk_seconds=2.0, overlap_seconds=0.5, sample_rate=48000)
    waveform = speech(7.3, rate)
    alone, batched = (Restorer(chain, options, size).restore(waveform, rate)[0] for size in (1, 4))
    restored = streamed(Restorer(chain, options).stream(rate), waveform, [rate // 50])
    np.testing.assert_array_equal(restored, alone)
    np.testing.assert_allclose(restored, batched, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample_rate": 48000},
        {"sample_rate": "input"},
        {"strength": 0.5},
        {"overlap_seconds": 0.0},
        {"level": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rate_in", [8000, 48000])
@pytest.mark.parametrize("kind", ["finite", "peak"])
def test_nothing_comes_later_than_the_stated_latency(stand_in, kind, rate_in, changes):
    stream = Restorer(stand_in(kind), replace(OPTIONS, **changes)).stream(rate_in)
    waveform, size = speech(4.0, rate_in), rate_in // 100
    # A pause: its chunks wait for later ones where the model has no level.
    waveform[rate_in : 3 * rate_in] = 0
    latency, num_back = 0.0, 0
    for start in range(0, len(waveform), size):
        num_back += len(stream.push(waveform[start : start + size]))
        latency = max(latency, (start + size) / rate_in - num_back / stream.sample_rate)
    assert latency <= stream.latency_seconds
    if kind == "finite":  # for the other, 4 s may have no chunk that waits its longest
        assert stream.latency_seconds <= latency + 0.25


def test_memory_does_not_grow_with_the_hours(stand_in, monkeypatch):
    monkeypatch.setattr(job_module, "PAST_SECONDS", 5.0)
    model = stand_in("finite")
    options = replace(OPTIONS, sample_rate=48000, strength=0.5)
    stream, block, sizes = Restorer(model, options).stream(RATE), speech(1.0), []
    tracemalloc.start()
    try:
        for second in range(61):
            stream.push(block)
            if second in (10, 60):
                model.batches.clear(), model.lengths.clear()  # what it was asked for
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    print(f"{sizes[0] / 1e6:.2f} MB after 10 s, {sizes[1] / 1e6:.2f} MB after 60 s")
    assert sizes[1] - sizes[0] <= 50 * block.nbytes / 8  # of what came in between


def test_the_level_is_that_of_the_last_minutes(stand_in, monkeypatch):
    """Soft speech after loud speech comes to the model as loud, once the loud one is long ago."""
    monkeypatch.setattr(job_module, "PAST_SECONDS", 2.0)
    model, given = stand_in("same"), []
    monkeypatch.setattr(model, "answer", lambda waveform, noise: given.append(waveform) or waveform)
    loud = speech(4.0)
    streamed(Restorer(model, OPTIONS).stream(RATE), np.concatenate([loud, 0.01 * loud]), [800])
    levels = [float(chunk.square().mean().sqrt()) for chunk in given]
    assert levels[-2] == pytest.approx(levels[8], rel=0.3)


def test_blocks_may_be_reused_by_who_pushes_them(stand_in):
    restorer = Restorer(stand_in("finite"), OPTIONS, batch_size=1)
    waveform, buffer = speech(2.0), np.zeros(100, np.float32)
    stream, restored = restorer.stream(RATE), []
    for start in range(0, len(waveform), 100):
        buffer[:] = waveform[start : start + 100]
        restored.append(stream.push(buffer))
        buffer[:] = 7
    restored.append(stream.finish())
    expected = restorer.restore(waveform, RATE)[0]
    np.testing.assert_array_equal(np.concatenate(restored), expected)


def test_a_stream_without_anything_gives_nothing(stand_in):
    stream = Restorer(stand_in("same"), OPTIONS).stream(RATE)
    assert stream.push(np.zeros(0, np.float32)).shape == (0,)
    assert stream.finish().shape == (0,)
    assert Restorer(stand_in("same"), OPTIONS).stream(RATE).finish().shape == (0,)


WRONG = {
    "integers": (np.zeros(9, np.int16), "a block of int16: push an array of floats"),
    "no array": ([0.0, 0.1], "a block of list"),
    "nan": (np.array([0.0, np.nan], np.float32), "NaN or Inf"),
    "three dimensions": (np.zeros((1, 1, 9), np.float32), r"shape \(1, 1, 9\)"),
    "no channel": (np.zeros((0, 9), np.float32), r"shape \(0, 9\)"),
    "rows where there were none": (np.zeros((1, 9), np.float32), "first block had no rows"),
}


@pytest.mark.parametrize(("block", "message"), WRONG.values(), ids=WRONG)
def test_a_block_that_does_not_fit_is_refused_and_the_stream_goes_on(stand_in, block, message):
    restorer = Restorer(stand_in("finite"), OPTIONS, batch_size=1)
    waveform, stream = speech(1.5), restorer.stream(RATE)
    first = stream.push(waveform[:5000])
    with pytest.raises(UserError, match=message):
        stream.push(block)
    restored = [first, stream.push(waveform[5000:]), stream.finish()]
    expected = restorer.restore(waveform, RATE)[0]
    np.testing.assert_array_equal(np.concatenate(restored), expected)


def test_an_empty_file_like_block_is_no_end(stand_in):
    stream = Restorer(stand_in("same"), OPTIONS).stream(RATE)
    stream.push(speech(0.1))
    assert stream.push(np.zeros(0, np.float32)).shape == (0,)
    assert stream.finish().shape == (800,)


@pytest.mark.parametrize("ending", ["push", "finish"])
def test_a_finished_stream_takes_nothing_more(stand_in, ending):
    stream = Restorer(stand_in("same"), OPTIONS).stream(RATE)
    stream.push(speech(0.1))
    stream.finish()
    with pytest.raises(UserError, match="the stream has ended, it was finished; begin another"):
        stream.push(speech(0.1)) if ending == "push" else stream.finish()


def test_a_model_that_fails_ends_the_stream(stand_in):
    stream = Restorer(stand_in("nan"), OPTIONS).stream(RATE)
    with pytest.raises(UserError, match="the stream: the model gave NaN or Inf"):
        stream.push(speech(2.0))
    with pytest.raises(UserError, match="has ended, it failed: the stream: the model gave NaN"):
        stream.push(speech(2.0))


def test_what_needs_the_whole_signal_is_refused(stand_in):
    with pytest.raises(UserError, match="level peak needs the whole signal"):
        Restorer(stand_in("same"), replace(OPTIONS, level="peak")).stream(RATE)
    for asked in ({"min_trust": 0.5}, {"trust": True}):
        with pytest.raises(UserError, match="trust is measured in whole signals: leave it out"):
            Restorer(stand_in("same"), replace(OPTIONS, **asked)).stream(RATE)
    with pytest.raises(UserError, match="2 channels: how they become one is found in the whole"):
        Restorer(stand_in("same"), OPTIONS).stream(RATE).push(speech(0.1, channels=2))
    with pytest.raises(UserError, match="sample rate 'high'"):
        Restorer(stand_in("same"), OPTIONS).stream("high")
