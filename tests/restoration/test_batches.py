"""Which chunks share a batch, how large it is on a device, and what level the model gets."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from open_miipher.audio.chunking import ChunkGrid
from open_miipher.audio.level import SPEECH_RMS, speech_gains
from open_miipher.base.errors import UserError
from open_miipher.restoration import RestoreOptions, Restorer
from open_miipher.restoration import trial as trial_module
from open_miipher.restoration.batches import MOST_PADDING, PATIENCE, Waiting
from open_miipher.restoration.trial import suited_amp, try_batches

RATE = 8000
RNG = np.random.default_rng(0)


def batches_of(lengths, batch_size):
    """Frames of the rows of every batch."""
    waiting, batches = Waiting(batch_size), []
    for length in map(int, lengths):
        chunk = SimpleNamespace(restored=np.broadcast_to(np.float32(0), (1, length)))
        batches.append(waiting.add((chunk, 0)))
    return [[c.restored.shape[1] for c, _ in b] for b in [*batches, *waiting.rest()] if b]


@pytest.mark.parametrize("batch_size", [4, 8, 16, 32])
@pytest.mark.parametrize("order", ["manifest", "shortest first", "longest first"])
@pytest.mark.parametrize("kind", ["even", "skewed"])
def test_2000_utterances_fill_batches_in_any_order(kind, order, batch_size):
    even = RNG.uniform(12, 500, 2000)  # frames: 0.5 to 20 s at 25 Hz
    lengths = even if kind == "even" else np.clip(25 * RNG.lognormal(1.2, 0.8, 2000), 12, 500)
    if order != "manifest":
        lengths = np.sort(lengths)[:: 1 if order == "shortest first" else -1]
    batches = batches_of(lengths, batch_size)
    assert Counter(map(int, lengths)) == Counter(n for batch in batches for n in batch)
    assert max(map(len, batches)) == batch_size
    assert len(lengths) / len(batches) >= 0.8 * batch_size
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert 1 - sum(map(sum, batches)) / padded <= 0.1
    for batch in batches:
        assert 1 - sum(batch) / (len(batch) * max(batch)) <= MOST_PADDING


def test_whole_chunks_never_wait():
    assert batches_of([500] * 10, 4) == [[500] * 4, [500] * 4, [500] * 2]


def test_an_odd_length_waits_for_no_more_than_its_patience():
    waiting = Waiting(2)
    for number in range(2 * PATIENCE):
        chunk = SimpleNamespace(restored=np.broadcast_to(np.float32(0), (1, 2**number)))
        batch = waiting.add((chunk, 0))
        assert bool(batch) == (number == 2 * PATIENCE - 1)
    [(chunk, _)] = batch
    assert chunk.restored.shape == (1, 1)  # the first


def speech(seconds=3.0, level=0.1):
    """Bursts of tone over a soft hiss."""
    t = np.arange(int(seconds * RATE)) / RATE
    tone = np.sqrt(2) * np.sin(2 * np.pi * 500 * t) * (t % 0.48 < 0.24)
    hiss = 1e-3 * np.random.default_rng(1).standard_normal(len(t))
    return (level * (tone + hiss)).astype(np.float32)[None]


@pytest.mark.parametrize("level", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_speech_comes_to_its_level_whatever_it_had(level, offset):
    waveform = speech(level=level) + np.float32(offset * level)
    assert speech_gains([waveform], RATE) == pytest.approx(SPEECH_RMS / level, rel=0.02)


def test_gains_do_not_depend_on_blocks_and_are_each_channels_own():
    waveform = np.concatenate([speech(), 0.2 * speech(), 0 * speech()])
    whole = speech_gains([waveform], RATE)
    cut = speech_gains(np.split(waveform, [1, 7, 3000, 3001, 20000], axis=1), RATE)
    np.testing.assert_allclose(cut, whole, rtol=1e-6)
    np.testing.assert_allclose(whole[1] / whole[0], 5, rtol=1e-5)
    assert whole[2] == 1  # silence


@pytest.mark.parametrize("level", [0.1, 0.003])
@pytest.mark.parametrize("what", ["click", "pause", "50 Hz", "30 Hz", "slam"])
def test_what_is_no_speech_hardly_moves_the_level(what, level):
    waveform = speech(10.0, level)
    [expected] = speech_gains([waveform], RATE)
    if what == "click":
        waveform[0, 40000] = 0.9
    elif what == "pause":
        pause = 1e-3 * level * RNG.standard_normal((1, 20 * RATE))
        waveform = np.concatenate([waveform, pause.astype(np.float32)], axis=1)
    elif what == "slam":
        waveform[0, 40000 : 40000 + RATE // 5] += 3 * level * RNG.standard_normal(RATE // 5)
    else:
        t = np.arange(waveform.shape[1]) / RATE
        waveform += (30 * level * np.sin(2 * np.pi * int(what.split()[0]) * t)).astype(np.float32)
    wanted = min(expected, 1 / waveform.std())  # the whole stays within full scale
    assert speech_gains([waveform], RATE) == pytest.approx(wanted, rel=0.2)


def test_a_hiss_without_speech_is_scaled_as_a_whole_and_near_silence_is_not_blown_up():
    hiss = (0.2 * RNG.standard_normal((1, RATE))).astype(np.float32)
    assert speech_gains([hiss], RATE) == pytest.approx(SPEECH_RMS / 0.2, rel=0.07)
    assert np.isfinite(1e-30 / speech_gains([1e-30 * hiss], RATE)).all()
    assert speech_gains([1e-30 * hiss], RATE) <= 1e6


@pytest.mark.parametrize("restores_level", [True, False])
def test_the_model_always_hears_one_level(stand_in, restores_level):
    """In chunks, in two channels and in a file that is read twice, too."""
    heard = []
    waveform = np.concatenate([speech(), 0.1 * speech()])
    options = RestoreOptions(channels="each", level="none", chunk_seconds=1, overlap_seconds=0.2)
    for level in (1.0, 1e-2):
        model = stand_in("same")
        model.restores_level = restores_level
        restore = model.restore
        model.restore = lambda x, *rest, restore=restore: (heard.append(x), restore(x, *rest))[1]
        restored, _ = Restorer(model, options, batch_size=1).restore(level * waveform, RATE)
        expected = level * waveform if restores_level else waveform / np.array([[1], [0.1]])
        expected = expected if restores_level else expected * (SPEECH_RMS / 0.1)
        np.testing.assert_allclose(restored, expected, rtol=0.02, atol=1e-6)
    half = len(heard) // 2
    for loud, soft in zip(heard[:half], heard[half:], strict=True):
        torch.testing.assert_close(loud, soft, atol=1e-6, rtol=1e-5)


class Card:
    """A model on a stand-in for a GPU: memory for `room` chunks, as fast as `parallel` of them."""

    input_rate, input_hop = 8000, 80
    now = 0.0

    def __init__(self, room: int, parallel: int) -> None:
        self.room, self.parallel = room, parallel
        self.sizes: list[int] = []

    def restore(self, waveform, lengths, keys, starts):
        if len(waveform) > self.room:
            raise torch.OutOfMemoryError("no")
        self.sizes.append(len(waveform))
        self.now += 0.01 * max(1.0, len(waveform) / self.parallel)


@pytest.mark.parametrize(
    ("room", "parallel", "largest", "found"),
    [(9, 1000, 256, 8), (1000, 8, 256, 8), (1000, 1000, 16, 16), (1, 1000, 256, 1)],
)
def test_a_trial_finds_the_batch_that_fills_the_card(room, parallel, largest, found, monkeypatch):
    card = Card(room, parallel)
    monkeypatch.setattr(trial_module.time, "perf_counter", lambda: card.now)
    trial = try_batches(card, ChunkGrid(200, 20), largest)
    assert trial.batch_size == found
    assert max(card.sizes) <= 2 * found
    assert f"batches of {found} chunks of 2 s" in str(trial)


def test_a_trial_leaves_as_much_memory_as_graphs_will_keep(monkeypatch):
    card = Card(1000, 1000)
    monkeypatch.setattr(trial_module.time, "perf_counter", lambda: card.now)
    monkeypatch.setattr(trial_module, "_share_taken", lambda: 0.1 + 0.03 * max(card.sizes))
    assert try_batches(card, ChunkGrid(200, 20)).batch_size == 8  # .34; 16 would take .58


def test_a_batch_too_large_for_the_memory_is_restored_in_halves(stand_in):
    model = stand_in("same")
    answer = model.answer

    def small(waveform, noise):
        if len(waveform) > 3:
            raise torch.OutOfMemoryError("no")
        return answer(waveform, noise)

    model.answer = small
    waveform = np.concatenate([speech()] * 10)
    options = RestoreOptions(channels="each", level="none")
    restored, _ = Restorer(model, options, batch_size=10).restore(waveform, RATE)
    np.testing.assert_allclose(restored, waveform, atol=1e-6)
    assert [rows for rows, _ in model.batches] == [10, 5, 2, 3, 5, 2, 3]


def test_a_card_too_small_for_a_chunk_is_told():
    with pytest.raises(UserError, match="too small for a chunk of 2 s; use shorter"):
        try_batches(Card(0, 1), ChunkGrid(200, 20))


def test_a_cpu_gets_float32_and_single_chunks_side_by_side_without_a_trial():
    assert suited_amp(torch.device("cpu")) == "no"
    restorer = Restorer.from_checkpoint(device="cpu")
    assert (restorer.batch_size, restorer.trial, restorer.model.amp) == (1, None, "no")
    assert restorer.model.side_by_side
