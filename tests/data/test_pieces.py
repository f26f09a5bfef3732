"""Crops, levels and packing: nothing lost, nothing twice, all drawn from seed and id."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate
from transformers import SeamlessM4TFeatureExtractor

from open_miipher.audio.io import AudioInfo
from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.data.config import PreprocessingData
from open_miipher.data.pieces import (
    Piece,
    PieceMaker,
    Unreadable,
    pack,
    to_sample,
    within_full_scale,
)
from open_miipher.degradation import Context, DegradationConfig, build_degradation
from open_miipher.degradation.band import low_cut
from open_miipher.shards import Member, decode_waveform

RATE = 8000
NOISE = DegradationConfig({"noise": {"name": "noise", "snr_db": [10.0, 10.0]}})


@dataclass(frozen=True)
class Fake(Member):
    """A recording that a function decodes."""

    def decode(self, start: int, count: int) -> np.ndarray:
        return self.data(start, count)


def fake(num_frames: int, num_channels: int, decode) -> Fake:
    return Fake("a.wav", AudioInfo(RATE, num_frames, num_channels, "", ""), decode)


def recording(seconds: float, channels: int = 1, seed: int = 0) -> Fake:
    shape = (channels, round(seconds * RATE))
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return fake(shape[1], channels, lambda start, n: waveform[:, start : start + n])


def maker(crops="random", seed=0, degradation=NOISE, **fields) -> PieceMaker:
    data = PreprocessingData(sample_rate=RATE, **{"crop_seconds": 1.0, **fields})
    return PieceMaker(data, crops, seed, build_degradation(degradation, Context(RATE)))


def made(pieces, source, stable_id="id") -> list[Piece]:
    return [piece for piece, _ in pieces.pieces(source, stable_id)]


def numbered(lengths: list[int]) -> list[Piece]:
    """Pieces whose clean samples count on, and whose damaged ones are their negatives."""
    ends = np.cumsum(lengths)
    spans = [
        np.arange(end - n, end, dtype=np.float32) for end, n in zip(ends, lengths, strict=True)
    ]
    return [Piece(s, -s, f"file{k}", 0, [{"name": k}]) for k, s in enumerate(spans)]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 40))
def test_packing_loses_nothing_and_fills_every_sample(lengths, num_samples):
    groups = list(pack(numbered(lengths), num_samples))
    for name, sign in (("clean", 1), ("damaged", -1)):
        parts = [getattr(piece, name) for group in groups for piece in group]
        joined = np.concatenate(parts) if parts else np.zeros(0)
        assert np.array_equal(joined, sign * np.arange(sum(lengths), dtype=np.float32))
    sizes = [sum(map(len, group)) for group in groups]
    assert all(size == num_samples for size in sizes[:-1])
    assert all(0 < size <= num_samples for size in sizes)
    assert all(len(piece) > 0 for group in groups for piece in group)
    for piece in (piece for group in groups for piece in group):  # its place in its own file
        first = sum(lengths[: int(piece.name[4:])])
        assert piece.clean[0] == first + piece.start


def test_a_sample_says_what_is_in_it():
    groups = list(pack(numbered([RATE // 2, RATE]), RATE))
    tenth = [
        [Piece(p.clean / 1e5, p.damaged / 1e5, p.name, p.start, p.drawn) for p in group]
        for group in groups
    ]
    samples = [to_sample(f"key{k}", group, RATE, "npy") for k, group in enumerate(tenth)]
    assert [json.loads(s.members["names.json"]) for s in samples] == [
        [
            {"name": "file0", "start_seconds": 0.0, "seconds": 0.5},
            {"name": "file1", "start_seconds": 0.0, "seconds": 0.5},
        ],
        [{"name": "file1", "start_seconds": 0.5, "seconds": 0.5}],
    ]
    assert json.loads(samples[0].members["degradations.json"]) == [[{"name": 0}], [{"name": 1}]]
    assert samples[1].members["sr.index"] == b"8000"
    for member, sign in (("input_wav.npy", 1), ("noisy_input_wav.npy", -1)):
        waveform, _ = decode_waveform(samples[0].members[member], member)
        assert np.allclose(waveform[0], sign * np.arange(RATE) / 1e5, atol=2e-5)


def test_a_long_file_gives_a_random_crop_or_all_of_it():
    source = recording(3.4)
    (crop,) = made(maker(), source)
    assert len(crop) == RATE
    starts = {made(maker(), source, f"id{k}")[0].start for k in range(8)}
    assert len(starts) == 8
    assert all(0 <= start <= 2.4 * RATE for start in starts)
    pieces = made(maker(crops="all"), source)
    assert [piece.start for piece in pieces] == [0, RATE, 2 * RATE, 3 * RATE]
    assert sum(map(len, pieces)) == round(3.4 * RATE)
    assert len(made(maker(), recording(0.3))[0]) == round(0.3 * RATE)


def test_a_crop_is_that_part_of_the_whole_file_without_its_lows():
    source = recording(3.0)
    whole = low_cut(source.decode(0, 3 * RATE)[0], RATE, 50.0)
    (crop,) = made(maker(degradation=DegradationConfig({})), source)
    expected = whole[crop.start :][:RATE]
    assert np.allclose(crop.clean, 0.9 * expected / np.abs(expected).max(), atol=1e-5)
    assert np.array_equal(crop.damaged, crop.clean)
    assert np.abs(crop.clean).max() == pytest.approx(0.9)


def test_pairs_depend_on_seed_and_id_alone():
    source = recording(2.0, channels=2)
    first, again = made(maker(), source)[0], made(maker(), source)[0]
    assert np.array_equal(first.damaged, again.damaged)
    for other in (made(maker(seed=1), source)[0], made(maker(), source, "other")[0]):
        assert not np.array_equal(first.damaged, other.damaged)


def test_all_pieces_of_a_recording_have_one_gain():
    """A pause stays one, with reverb too; the loudest piece has the peak."""
    rng = np.random.default_rng(0)
    levels = np.float32([0.2, 0.5, 1e-4, 0.0]).repeat(RATE)
    waveform = (levels * rng.uniform(-1, 1, len(levels)))[None].astype(np.float32)
    source = fake(len(levels), 1, lambda start, n: waveform[:, start : start + n])
    whole = low_cut(waveform[0], RATE, 50.0)
    plain = made(maker(crops="all", degradation=DegradationConfig({})), source)
    joined = np.concatenate([piece.clean for piece in plain])
    assert np.allclose(joined, 0.9 * whole / np.abs(whole).max(), atol=1e-5)
    assert np.abs(plain[2].clean[RATE // 10 :]).max() < 1e-3
    room = {"name": "reverb", "target": "direct", "direct_seconds": 0.0}
    wet = made(maker(crops="all", degradation=DegradationConfig({"reverb": room})), source)
    peaks = [[np.abs(piece.clean).max() for piece in pieces] for pieces in (plain, wet)]
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-5)
    assert max(peaks[0]) == pytest.approx(0.9)
    (crop,) = made(maker(), source)  # a random crop is scaled by itself
    assert np.abs(crop.clean).max() == pytest.approx(0.9)


def test_all_crops_take_every_channel_one_after_the_other():
    num_samples = round(2.5 * RATE)
    source = recording(2.5, channels=3)
    plain = {"crops": "all", "degradation": DegradationConfig({}), "low_cut_hz": None}
    pieces = made(maker(**plain), source)
    spans = [(piece.channel, piece.start, len(piece)) for piece in pieces]
    half = RATE // 2
    assert spans == [
        (channel, start, length)
        for channel in range(3)
        for start, length in ((0, RATE), (RATE, RATE), (2 * RATE, half))
    ]
    whole = source.decode(0, num_samples)
    joined = np.concatenate([piece.clean for piece in pieces]).reshape(3, num_samples)
    assert np.allclose(joined, 0.9 * whole / np.abs(whole).max(), atol=1e-6)
    (sample,) = (to_sample("k", g, RATE, "npy") for g in pack(pieces, 10 * num_samples))
    names = json.loads(sample.members["names.json"])
    assert [part["channel"] for part in names] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {piece.channel for piece in made(maker(crops="all"), recording(2.5))} == {None}


def test_the_pieces_before_a_damaged_one_are_made():
    whole = recording(3.0)

    def decode(start, count):
        if start + count > 2.5 * RATE:
            raise UserError("a.wav is damaged")
        return whole.decode(start, count)

    pieces = []
    with pytest.raises(Unreadable, match=r"a\.wav is damaged"):
        pieces.extend(maker(crops="all").pieces(fake(3 * RATE, 1, decode), "id"))
    assert len(pieces) == 2
    assert max(np.abs(piece.clean).max() for piece, _ in pieces) == pytest.approx(0.9)


@pytest.mark.parametrize("crops", ["random", "all"])
@pytest.mark.parametrize("loudest", [1e-42, 1e-38, 5e-7])
def test_what_is_as_good_as_silent_is_silence(loudest, crops):
    waveform = np.full((1, 2 * RATE), loudest, np.float32)
    waveform[:, ::2] *= -1
    source = fake(2 * RATE, 1, lambda start, n: waveform[:, start : start + n])
    for piece in made(maker(crops=crops), source):
        assert not piece.clean.any()
        assert np.isfinite(piece.damaged).all()


def test_silence_stays_silent():
    silence = np.zeros((1, RATE), np.float32)
    source = fake(RATE, 1, lambda start, n: silence[:, start : start + n])
    (piece,) = made(maker(), source)
    assert not piece.clean.any()
    assert np.isfinite(piece.damaged).all()


def test_what_16_bits_cannot_hold_is_scaled():
    damaged = np.float32([1.5, -3.0])
    drawn: list[dict] = []
    scaled = within_full_scale(damaged, drawn)
    assert np.abs(scaled).max() == pytest.approx(32767 / 32768)
    assert np.allclose(3 * scaled, damaged, rtol=1e-4)
    assert drawn == [{"name": "level", "gain_db": pytest.approx(-20 * np.log10(3), abs=0.01)}]
    drawn.clear()
    quiet = np.float32([0.9, -0.5])
    assert within_full_scale(quiet, drawn) is quiet
    assert drawn == []


def test_the_clean_keeps_its_peak_and_the_damaged_its_ratio():
    loud = DegradationConfig({"noise": {"name": "noise", "snr_db": [-5.0, -5.0]}})
    (piece,) = made(maker(degradation=loud), recording(1.0))
    assert [stage["name"] for stage in piece.drawn] == ["noise", "level"]
    assert np.abs(piece.clean).max() == pytest.approx(0.9)
    gain = 10 ** (piece.drawn[1]["gain_db"] / 20)
    noise = piece.damaged / gain - piece.clean
    ratio = 10 * np.log10(np.mean(piece.clean**2) / np.mean(noise**2))
    assert ratio == pytest.approx(-5.0, abs=0.1)


def test_reverb_moves_the_target_and_not_its_peak():
    room = {"name": "reverb", "target": "direct", "direct_seconds": 0.0}
    (piece,) = made(maker(degradation=DegradationConfig({"reverb": room})), recording(1.0))
    assert np.abs(piece.clean).max() == pytest.approx(0.9)
    (dry,) = made(maker(degradation=DegradationConfig({})), recording(1.0))
    assert np.corrcoef(piece.clean, dry.clean)[0, 1] > 0.99  # generated rooms: a single tap
    correlation = correlate(piece.damaged, piece.clean, method="fft")
    assert int(np.argmax(np.abs(correlation))) == len(piece) - 1


@pytest.mark.parametrize("num_samples", [1, 600, 960, 960 * 7 + 2])
def test_ssl_inputs_of_a_short_sample_are_whole_frames(num_samples):
    clean = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32) / 8
    group = [Piece(clean, clean / 2, "a", 0, [])]
    members = to_sample("key", group, 48000, "npy", with_ssl_inputs=True).members
    features = np.load(io.BytesIO(members["ssl_inputs.npy"]))
    assert features.shape == (max(2, -(-num_samples // 960)), 160)
    assert np.isfinite(features).all()


def test_ssl_inputs_are_those_of_the_stock_extractor():
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(2 * 24000).astype(np.float32) / 8
    group = [Piece(clean, clean / 2, "a", 0, [])]
    members = to_sample("key", group, 24000, "npy", with_ssl_inputs=True).members
    features = np.load(io.BytesIO(members["ssl_inputs.npy"]))
    assert features.dtype == np.float16
    assert features.shape == (100, 160)  # 50 a second
    padded = np.pad(resample(clean, 24000, 16000), 40)
    stock = SeamlessM4TFeatureExtractor()(padded, sampling_rate=16000, return_tensors="np")
    assert np.abs(features - stock["input_features"][0]).max() < 1e-2  # of values up to some 5
    damaged = np.load(io.BytesIO(members["noisy_ssl_inputs.npy"]))
    assert np.abs(damaged.astype(np.float32) - features).max() < 0.1  # the level does not count
