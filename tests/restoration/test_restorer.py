"""Any waveform in, a restored one out: length, place, level, silence, noise."""

import math
import warnings

import numpy as np
import pytest
import torch

from open_miipher.audio.resample import num_output_frames, resample
from open_miipher.base.errors import Notice, UserError
from open_miipher.base.noise import noise_key, white_noise
from open_miipher.restoration import Level, RestoreOptions, Restorer

RNG = np.random.default_rng(0)
RATE = 8000
SMALL = {"chunk_seconds": 96 / RATE, "overlap_seconds": 48 / RATE}  # 24 and 12 frames of 4 samples


def stream(seed: int, num_samples: int) -> np.ndarray:
    """The noise that a vocoder starts from."""
    return white_noise(noise_key(seed), torch.zeros(1, dtype=torch.int64), num_samples)[0].numpy()


def noise(num_samples: int, level: float = 0.1) -> np.ndarray:
    return (level * RNG.standard_normal(num_samples)).astype(np.float32)


def bursts(seconds: float, level: float = 0.5, rate: int = RATE) -> np.ndarray:
    """Half a second of tone, a quarter of silence, over and over."""
    t = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 220 * t) * (t % 0.75 < 0.5)).astype(np.float32)


def rms(waveform: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))))


def decibels(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-12))


def test_chunked_equals_unchunked_to_1e_6_with_a_model_of_finite_context(stand_in) -> None:
    model = stand_in("finite")
    chunked = Restorer(model, RestoreOptions(**SMALL), batch_size=3)
    whole = Restorer(model, RestoreOptions(chunk_seconds=10, overlap_seconds=1))
    assert chunked.options.grid(model).margin_frames * model.input_hop >= model.context
    for num_samples in range(1, 3 * 96 + 2):
        waveform = noise(num_samples)
        expected, _ = whole.restore(waveform, RATE)
        restored, rate = chunked.restore(waveform, RATE)
        assert rate == RATE
        np.testing.assert_allclose(restored, expected, atol=1e-6)


@pytest.mark.parametrize("rate_in", [8000, 11025, 16000, 44100, 192000])
@pytest.mark.parametrize("rate_out", ["model", "input", 22050])
def test_lengths_are_exact_for_1_to_700_samples(stand_in, rate_in: int, rate_out) -> None:
    model = stand_in("same", input_rate=16000, input_hop=64, output_rate=24000, output_hop=96)
    options = RestoreOptions(sample_rate=rate_out, chunk_seconds=0.02, overlap_seconds=0.008)
    restorer = Restorer(model, options)
    waveform = noise(700)
    for num_samples in range(1, 701, 3 if rate_in == 44100 else 17):
        restored, rate = restorer.restore(waveform[:num_samples], rate_in)
        assert rate == {"model": 24000, "input": rate_in}.get(rate_out, rate_out)
        assert len(restored) == num_output_frames(num_samples, rate_in, rate)
        assert np.isfinite(restored).all()


def test_every_length_from_1_to_700_samples_at_the_models_rate(stand_in) -> None:
    restorer = Restorer(stand_in("same"), RestoreOptions(**SMALL))
    waveform = noise(700)
    for num_samples in range(1, 701):
        restored, _ = restorer.restore(waveform[:num_samples], RATE)
        np.testing.assert_allclose(restored, waveform[:num_samples], atol=1e-6)


@pytest.mark.parametrize("rate_in", [8000, 11025, 44100, 48000, 96000])
def test_the_output_lies_where_the_input_lay(stand_in, rate_in: int) -> None:
    model = stand_in("same", input_rate=16000, input_hop=64, output_rate=16000, output_hop=64)
    restorer = Restorer(
        model, RestoreOptions(sample_rate=32000, chunk_seconds=0.3, overlap_seconds=0.1)
    )
    t = np.arange(rate_in) / rate_in
    envelope = np.exp(-0.5 * ((t - 0.43) / 0.05) ** 2)
    waveform = (envelope * np.sin(2 * np.pi * 700 * t)).astype(np.float32)
    restored, rate = restorer.restore(waveform, rate_in)
    t = np.arange(rate) / rate
    expected = np.exp(-0.5 * ((t - 0.43) / 0.05) ** 2) * np.sin(2 * np.pi * 700 * t)
    np.testing.assert_allclose(restored, expected, atol=2e-3)


def test_overlapping_chunks_draw_the_same_noise_at_the_same_sample(stand_in) -> None:
    restorer = Restorer(stand_in("noise"), RestoreOptions(seed=7, level="none", **SMALL))
    restored, _ = restorer.restore(noise(1000), RATE)
    np.testing.assert_allclose(restored, stream(7, 1000), atol=1e-6)


def test_both_channels_start_from_the_same_noise(stand_in) -> None:
    options = RestoreOptions(channels="each", level="none", **SMALL)
    restorer = Restorer(stand_in("noise"), options)
    left, right = restorer.restore(noise(600).reshape(2, 300), RATE)[0]
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["garbage", "peak", "noise"])
def test_silence_never_reaches_the_model_and_stays_silence(stand_in, name: str) -> None:
    model = stand_in(name)
    restored, _ = Restorer(model, RestoreOptions(**SMALL)).restore(np.zeros(5000), RATE)
    assert model.batches == []
    assert restored.shape == (5000,)
    assert not restored.any()


@pytest.mark.parametrize("name", ["garbage", "peak", "finite"])
@pytest.mark.parametrize("level", ["match-input", "none"])
def test_a_silent_chunk_changes_nothing_after_it(stand_in, name: str, level: str) -> None:
    options = RestoreOptions(level=level, chunk_seconds=1, overlap_seconds=0.3)
    silence = np.zeros(4 * RATE, dtype=np.float32)
    before, after = bursts(3, 0.7), bursts(4, 0.1) + noise(4 * RATE, 0.001)
    with_speech, _ = Restorer(stand_in(name), options).restore(
        np.concatenate([before, silence, after]), RATE
    )
    with_silence, _ = Restorer(stand_in(name), options).restore(
        np.concatenate([0 * before, silence, after]), RATE
    )
    assert not with_speech[4 * RATE : 6 * RATE].any()
    # But for the level at which the model gets it, which the rest of the file has part in.
    np.testing.assert_allclose(with_speech[5 * RATE :], with_silence[5 * RATE :], atol=2e-4)
    assert with_speech[7 * RATE :].any()


def test_levels_come_back_within_a_decibel_also_at_the_seams(stand_in) -> None:
    """A vocoder of fixed peak must not move the level, whatever else a chunk holds."""
    options = RestoreOptions(chunk_seconds=3, overlap_seconds=0.6)
    level = np.repeat([0.5, 0.05, 0.2, 0.8, 0.01, 0.3], 2.5 * RATE)
    waveform = bursts(15, 1.0) * level.astype(np.float32) + noise(15 * RATE, 0.0005)
    restored, _ = Restorer(stand_in("peak"), options).restore(waveform, RATE)
    window = RATE // 20
    windows_in = waveform[: len(waveform) // window * window].reshape(-1, window)
    windows_out = restored[: len(waveform) // window * window].reshape(-1, window)
    gains = [
        decibels(rms(b) / rms(a))
        for a, b in zip(windows_in, windows_out, strict=True)
        if rms(a) > 0.003
    ]
    assert len(gains) > 100
    assert max(map(abs, gains)) < 1.0
    assert np.abs(np.diff(gains)).max() < 1.0


@pytest.mark.parametrize("seconds", [3, 15])
@pytest.mark.parametrize("what", ["offset", "hum"])
@pytest.mark.parametrize(
    ("level", "below"),
    [(0.025, 0), (0.025, 0.02), (0.025, 0.1), (0.025, 0.3), (0.0056, 0.01), (0.0018, 0.005)],
)
def test_an_offset_or_hum_is_no_level_of_speech(stand_in, level, below, what, seconds) -> None:
    """A vocoder of fixed peak does not give them back, and speech comes as loud as it was."""
    speech = bursts(seconds, level) + noise(seconds * RATE, 0.001 * level)
    under = np.ones(len(speech))
    if what == "hum":
        under = np.sin(2 * np.pi * 50 * np.arange(len(speech)) / RATE)
    model = stand_in("peak")
    model.restore = clean_at_a_peak(speech)
    options = RestoreOptions(chunk_seconds=4, overlap_seconds=1)
    restored, _ = Restorer(model, options).restore(speech + (below * under).astype("f4"), RATE)
    assert abs(decibels(rms(restored) / rms(speech))) < 0.5


def clean_at_a_peak(speech: np.ndarray):
    """Return a `restore` that knows what each chunk should be, at a peak of 0.9."""

    def restore(waveform, lengths, keys, starts, statistics=None):
        chunks = np.zeros(tuple(waveform.shape), np.float32)
        for row, start in zip(chunks, starts.tolist(), strict=True):
            part = speech[start : start + len(row)]
            row[: len(part)] = 0.9 * part / np.abs(part).max()
        return torch.from_numpy(chunks)

    return restore


def test_chunks_that_disagree_meet_halfway_where_somebody_speaks(stand_in) -> None:
    options = RestoreOptions(channels="each", chunk_seconds=6, overlap_seconds=1.5)
    waveform = np.stack([bursts(33, 0.3), bursts(33, 0.03)]) + noise(33 * RATE, 0.0003)
    restored, _ = Restorer(stand_in("uneven"), options).restore(waveform, RATE)
    period = round(0.75 * RATE)  # of the bursts
    for before, after in zip(waveform, restored, strict=True):
        pairs = zip(before.reshape(-1, period), after.reshape(-1, period), strict=True)
        gains = np.array([decibels(rms(b) / rms(a)) for a, b in pairs])
        assert np.abs(np.diff(gains)).max() < 1.0  # left alone, chunks differ by 4.5 dB there
        assert np.abs(gains[4:-4]).max() < 0.5  # and errors do not add up


def test_a_noisy_pause_is_no_louder_than_it_was(stand_in) -> None:
    options = RestoreOptions(chunk_seconds=2, overlap_seconds=0.5)
    pause = noise(12 * RATE, 0.002)
    waveform = np.concatenate([bursts(6), pause, bursts(6)]) + noise(24 * RATE, 0.001)
    restored, _ = Restorer(stand_in("garbage"), options).restore(waveform, RATE)
    assert decibels(rms(restored[8 * RATE : 16 * RATE]) / rms(waveform[8 * RATE : 16 * RATE])) < 0.5
    assert decibels(rms(restored[: 5 * RATE]) / rms(waveform[: 5 * RATE])) > -3


def test_a_long_pause_keeps_memory_and_level_bounded(stand_in) -> None:
    options = RestoreOptions(chunk_seconds=1, overlap_seconds=0.25)
    waveform = np.concatenate([noise(40 * RATE, 0.001), bursts(3), noise(40 * RATE, 0.001)])
    restored, _ = Restorer(stand_in("garbage"), options).restore(waveform, RATE)
    for start in range(0, 38):
        second = slice(start * RATE, (start + 1) * RATE)
        assert decibels(rms(restored[second]) / rms(waveform[second])) < 0.5


def test_level_none_is_the_models_and_peak_is_fixed(stand_in) -> None:
    waveform = bursts(6, 0.05)
    none, _ = Restorer(
        stand_in("peak"), RestoreOptions(level="none", chunk_seconds=2, overlap_seconds=0.5)
    ).restore(waveform, RATE)
    np.testing.assert_allclose(none, 18 * waveform, atol=1e-4)
    for name in ("same", "peak"):
        options = RestoreOptions(level="peak", chunk_seconds=2, overlap_seconds=0.5)
        quiet = np.concatenate([waveform, 0.1 * waveform])
        restored, _ = Restorer(stand_in(name), options).restore(quiet, RATE)
        assert np.abs(restored).max() == pytest.approx(0.9, abs=1e-4)
        np.testing.assert_allclose(restored, 18 * quiet, atol=0.05)  # one gain for the whole


def test_peak_of_silence_is_silence(stand_in) -> None:
    options = RestoreOptions(level="peak", **SMALL)
    restored, _ = Restorer(stand_in("same"), options).restore(np.zeros(100), RATE)
    assert not restored.any()


@pytest.mark.parametrize("rate_out", ["model", "input", 44100])
def test_strength_0_gives_the_input_exactly(stand_in, rate_out) -> None:
    model = stand_in("garbage", input_rate=16000, input_hop=64, output_rate=24000, output_hop=96)
    options = RestoreOptions(
        sample_rate=rate_out, strength=0, channels="each", chunk_seconds=0.1, overlap_seconds=0.02
    )
    waveform = noise(6000).reshape(2, 3000)
    restored, rate = Restorer(model, options).restore(waveform, 11025)
    np.testing.assert_array_equal(restored, resample(waveform, 11025, rate))
    assert model.batches == []


def test_strength_mixes_in_the_input_where_it_lies(stand_in) -> None:
    options = RestoreOptions(strength=0.25, level="none", **SMALL)
    waveform = bursts(0.5, 0.1)
    restored, _ = Restorer(stand_in("noise"), options).restore(waveform, RATE)
    wet = stream(0, len(waveform))
    np.testing.assert_allclose(restored, 0.25 * wet + 0.75 * waveform, atol=1e-6)


def test_channels_are_restored_each_by_itself_or_mixed(stand_in) -> None:
    waveform = np.stack([bursts(1, 0.5), 0.25 * bursts(1, 0.5), np.zeros(RATE, np.float32)])
    each, _ = Restorer(stand_in("peak"), RestoreOptions(channels="each", level="none")).restore(
        waveform, RATE
    )
    peaks = np.abs(each).max(axis=1)
    np.testing.assert_allclose(peaks, [0.9, 0.9, 0], atol=1e-5)
    mono, _ = Restorer(stand_in("same"), RestoreOptions(channels="mono")).restore(waveform, RATE)
    np.testing.assert_allclose(mono, waveform[:1], atol=1e-6)  # as loud as the loudest


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_opposite_channels_are_not_mixed_to_silence(stand_in, strength: float) -> None:
    voice = bursts(2, 0.5)
    options = RestoreOptions(channels="mono", strength=strength)
    restored, _ = Restorer(stand_in("same"), options).restore(np.stack([-voice, voice]), RATE)
    np.testing.assert_allclose(restored[0], -voice, atol=1e-6)


def test_a_waveform_keeps_its_kind(stand_in) -> None:
    restorer = Restorer(stand_in("same"), RestoreOptions(channels="each"))
    for waveform in (noise(100), noise(200).reshape(2, 100), noise(100).astype(np.float64)):
        restored, _ = restorer.restore(waveform, RATE)
        assert restored.shape == waveform.shape
        assert restored.dtype == np.float32
        tensor, _ = restorer.restore(torch.from_numpy(waveform), RATE)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), restored)


def test_several_channels_become_one_by_default_and_that_is_told(stand_in) -> None:
    stereo = np.stack([noise(100), np.zeros(100, np.float32)])
    with pytest.warns(Notice, match="2 channels are mixed to one, the default; RestoreOptions"):
        restored, _ = Restorer(stand_in("same")).restore(stereo, RATE)
    np.testing.assert_allclose(restored, stereo[:1], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Restorer(stand_in("same")).restore(stereo[0], RATE)
        Restorer(stand_in("same"), RestoreOptions(channels="mono")).restore(stereo, RATE)


def test_the_input_is_left_alone_and_may_exceed_full_scale(stand_in) -> None:
    waveform = noise(500, 3.0)
    kept = waveform.copy()
    restored, _ = Restorer(stand_in("same"), RestoreOptions(**SMALL)).restore(waveform, RATE)
    np.testing.assert_array_equal(waveform, kept)
    np.testing.assert_allclose(restored, waveform, atol=2e-6)


@pytest.mark.parametrize(
    ("waveform", "rate", "says"),
    [
        (np.zeros(0, np.float32), RATE, "at least one sample"),
        (np.zeros((2, 2, 2), np.float32), RATE, "shape"),
        (np.zeros(10, np.int16), RATE, "floats"),
        (np.array([0.0, np.nan]), RATE, "NaN"),
        (np.array([0.0, np.inf]), RATE, "NaN or Inf"),
        (np.array([0.0, 1e300]), RATE, "numbers beyond"),
        (np.zeros(10), 0, "sample rate"),
        (np.zeros(10), 24000.5, "sample rate 24000.5: give a whole number of Hz"),
        (np.zeros(10), math.nan, "sample rate nan"),
        (np.zeros(10), "24000", "sample rate '24000'"),
        (np.zeros(10), None, "sample rate None"),
        (np.zeros(10), True, "sample rate True"),
        (np.zeros(10), np.array([8000, 8000]), "sample rate array"),
        (np.zeros((1200, 1)), RATE, r"channels come first.*waveform\.T"),
        (np.zeros((24000, 2), np.float32), RATE, r"\(24000, 2\) has more channels than samples"),
        (torch.zeros(480, 6), RATE, "channels come first"),
        ([0.0] * 10, RATE, "of type list: give an array or a tensor"),
    ],
)
def test_waveforms_that_are_none_are_refused(stand_in, waveform, rate, says) -> None:
    with pytest.raises(UserError, match=says):
        Restorer(stand_in("same")).restore(waveform, rate)


@pytest.mark.parametrize(
    "rate", [float(RATE), np.float32(RATE), np.int16(RATE), np.array([[RATE]]), torch.tensor(RATE)]
)
def test_a_rate_of_any_type_is_the_same_rate(stand_in, rate) -> None:
    waveform = noise(300)
    restored, found = Restorer(stand_in("same"), RestoreOptions(**SMALL)).restore(waveform, rate)
    np.testing.assert_allclose(restored, waveform, atol=1e-6)
    assert type(found) is int
    options = RestoreOptions(sample_rate=rate)
    assert (type(options.sample_rate), options.sample_rate) == (int, RATE)


def test_a_few_channels_with_fewer_samples_are_channels_first(stand_in) -> None:
    restored, _ = Restorer(stand_in("same"), RestoreOptions(channels="each")).restore(
        noise(6).reshape(6, 1), RATE
    )
    assert restored.shape == (6, 1)


def test_half_precision_is_restored(stand_in) -> None:
    waveform = torch.from_numpy(noise(100))
    for type in (torch.bfloat16, torch.float16):
        restored, _ = Restorer(stand_in("same")).restore(waveform.to(type), RATE)
        torch.testing.assert_close(restored, waveform.to(type).float())


def test_a_model_that_gives_no_numbers_is_an_error(stand_in) -> None:
    with pytest.raises(UserError, match="NaN or Inf"):
        Restorer(stand_in("nan")).restore(noise(100), RATE)


def test_too_little_memory_says_what_to_do(stand_in) -> None:
    with pytest.raises(UserError, match=r"too small for a chunk of .* s; use shorter chunks"):
        Restorer(stand_in("oom")).restore(noise(100), RATE)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sample_rate": 10}, "sample rate"),
        ({"sample_rate": "file"}, "sample rate"),
        ({"channels": "left"}, "channels"),
        ({"level": "loud"}, "level"),
        ({"strength": 1.5}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"chunk_seconds": 0}, "chunk"),
        ({"chunk_seconds": math.nan}, "chunk"),
        ({"overlap_seconds": -1}, "overlap"),
        ({"overlap_seconds": 15}, "half a chunk"),
        ({"normalise_over": "utterance"}, "file or chunk"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"sample_rate": None}, "sample rate None"),
        ({"sample_rate": 22050.5}, "whole number of Hz"),
        ({"strength": None}, "None: give a number"),
    ],
)
def test_bad_options_are_refused_by_name(options, says) -> None:
    with pytest.raises(UserError, match=says):
        RestoreOptions(**options)


def test_all_bad_options_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"(?s)strength.*seed"):
        RestoreOptions(strength=-1, seed=-1)


def test_chunks_shorter_than_a_frame_and_empty_batches_are_refused(stand_in) -> None:
    model = stand_in("same", input_hop=RATE, output_hop=RATE)
    with pytest.raises(UserError, match="feature frame"):
        Restorer(model, RestoreOptions(chunk_seconds=0.1, overlap_seconds=0))
    with pytest.raises(UserError, match="batch size"):
        Restorer(stand_in("same"), batch_size=0)
    with pytest.raises(UserError, match="batch size"):
        Restorer(stand_in("same"), batch_size=2.5)


def test_no_overlap_works(stand_in) -> None:
    options = RestoreOptions(chunk_seconds=96 / RATE, overlap_seconds=0)
    waveform = noise(1234)
    restored, _ = Restorer(stand_in("same"), options).restore(waveform, RATE)
    np.testing.assert_allclose(restored, waveform, atol=1e-7)


def test_a_level_leaves_out_a_constant_offset() -> None:
    speech = np.stack([bursts(3, 0.01), noise(3 * RATE, 0.01)])
    levels = []
    for offset in (0.0, 0.4):
        level = Level()
        for block in np.array_split(speech + np.float32([[offset], [-offset]]), 5, axis=1):
            level.add(block)
        levels.append(level.decibels)
    assert levels[0] == pytest.approx(
        20 * math.log10(rms(speech - speech.mean(1)[:, None])), abs=0.01
    )
    assert levels[1] == pytest.approx(levels[0], abs=0.01)
    level = Level()
    level.add(np.full((1, 999), 0.3, np.float32))  # a microphone that was never on
    assert level.rms < 1e-6


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"amp": "fp16"}, "amp 'fp16': choose no or bf16"),
        ({"device": "foo"}, "device 'foo': choose cpu or cuda"),
        ({"device": "cuda:9" if torch.cuda.is_available() else "cuda"}, "device"),
    ],
)
def test_a_device_or_precision_that_is_none_is_refused(keys, says) -> None:
    if "cuda:9" in keys.values():
        pytest.skip("of a machine without a GPU")
    with pytest.raises(UserError, match=says):
        Restorer.from_checkpoint(**keys)
