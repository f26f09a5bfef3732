"""How far a restoration can be trusted: sounds right and wrong, and what is said of them."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from speech import voice, write_wav

from open_miipher.audio.io import read
from open_miipher.audio.resample import resample
from open_miipher.base.errors import Notice, UserError
from open_miipher.restoration import RestoreOptions, Restorer, Source, trust_of
from open_miipher.restoration import job as job_module
from open_miipher.restoration.streams import ArraySink
from open_miipher.restoration.trust import Trust, TrustMeter

SPOKEN = Path(__file__).resolve().parents[2] / "dataset/demo/speech/test/bridge.flac"
RATE = 24000
SPEECH = np.concatenate([voice(3, 4.0), np.zeros(RATE, np.float32), voice(3, 3.0)])
NOISE = 0.01 * np.random.default_rng(0).standard_normal(len(SPEECH)).astype(np.float32)
GAP = slice(4 * RATE, 5 * RATE)


def trust(given: np.ndarray, made: np.ndarray):
    return trust_of(np.atleast_2d(given), RATE, np.atleast_2d(made), RATE)


def changed(start: float, end: float, by: np.ndarray | float) -> np.ndarray:
    made = SPEECH.copy()
    made[int(start * RATE) : int(end * RATE)] = by
    return made


def test_what_is_the_same_is_trusted() -> None:
    found = trust(SPEECH, SPEECH)
    assert found.score > 0.99
    assert found.reason is None


@pytest.mark.parametrize("gain", [0.005, 0.1, 0.5, 3.0, 200.0])
def test_another_level_is_no_fault(gain: float) -> None:
    assert trust(SPEECH, gain * SPEECH).score > 0.99


def test_noise_that_goes_is_no_fault() -> None:
    assert trust(SPEECH + NOISE, SPEECH).score > 0.8


@pytest.mark.parametrize("given", [np.zeros_like(NOISE), NOISE], ids=["silence", "noise"])
def test_silence_out_of_what_has_no_speech_is_trusted(given: np.ndarray) -> None:
    assert trust(given, np.zeros_like(given)).score > 0.95


def test_speech_out_of_silence_is_not_trusted() -> None:
    assert trust(np.zeros_like(SPEECH), SPEECH).score < 0.1


OTHER = voice(8, 1.0)
FAULTS = {
    "a silenced syllable": (changed(2.1, 2.4, 0.0), "gone"),
    "a tail that is cut": (changed(7.2, 8.0, 0.0), "gone"),
    "another voice": (changed(1.5, 2.5, OTHER), "voice"),
    "a voice in the pause": (changed(4.0, 5.0, OTHER), "voice"),
    "an octave of noise added": (changed(4.2, 4.8, 8 * NOISE[: int(0.6 * RATE)]), "added"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["clean", "noisy"])
def test_a_fault_lowers_the_score_of_its_part(fault: str, noise: float) -> None:
    made, part = FAULTS[fault]
    found = trust(SPEECH + noise * NOISE, made)
    assert found.score < 0.5
    assert found.parts[part] < 0.5


def test_the_reason_says_what_happened_and_when() -> None:
    reason = trust(SPEECH, changed(7.2, 8.0, 0.0)).reason
    assert reason is not None
    first, end = (float(part) for part in reason.split()[2].split("-"))
    assert reason.startswith("speech at ")
    assert reason.endswith(" s is gone")
    assert 7.0 <= first < end <= 8.0


@pytest.mark.parametrize("semitones", [-3, 3])
def test_another_pitch_is_told_in_semitones(semitones: int) -> None:
    t = np.arange(4 * RATE) / RATE
    syllables = np.clip(np.sin(2 * np.pi * 2 * t), 0, 1)

    def sung(pitch: float) -> np.ndarray:
        tones = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 20))
        return (0.1 * tones * syllables).astype(np.float32)

    found = trust(sung(150.0), sung(150.0 * 2 ** (semitones / 12)))
    assert found.score < 0.5
    assert found.parts["voice"] < 0.5
    how = "higher" if semitones > 0 else "lower"
    if "semitones" in str(found.reason):
        assert f"3 semitones {how}" in str(found.reason)


@pytest.mark.parametrize("num_samples", [1, 2, 100, RATE // 10])
def test_very_short_sounds_have_a_score(num_samples: int) -> None:
    sound = SPEECH[2 * RATE :][:num_samples]
    assert trust(sound, sound).score > 0.99
    assert 0 <= trust(sound, -np.flip(sound)).score <= 1


@pytest.mark.parametrize("rate", [8000, 11025])
def test_highs_that_the_output_cannot_hold_are_not_missed(rate: int) -> None:
    hiss = 3 * np.diff(NOISE, prepend=NOISE[:1]) * (SPEECH != 0)
    bright = (SPEECH + hiss)[None]
    made = resample(bright, RATE, rate)
    assert trust_of(bright, RATE, made, rate).score > 0.95
    assert trust_of(bright, RATE, resample(made, rate, RATE), RATE).parts["band"] < 0.6


def test_speech_without_a_pause_is_not_hidden_by_itself() -> None:
    t = np.arange(2 * RATE) / RATE
    phase = 2 * np.pi * 180 * t + 2 * np.sin(2 * np.pi * 5 * t)
    vowel = (0.1 * sum(np.sin(k * phase) / k for k in range(1, 30))).astype(np.float32)
    assert trust(vowel, vowel).score > 0.99
    hiss = 0.3 * np.random.default_rng(0).standard_normal(len(vowel)).astype(np.float32)
    assert trust(vowel + hiss, vowel).parts["hidden"] < 0.1


def test_a_voice_that_becomes_a_whisper_is_told() -> None:
    """The same spectrum at every time, but of noise."""
    size, hop = 512, 128
    window = np.hanning(size)
    made, noise = np.zeros(len(SPEECH)), np.random.default_rng(0).standard_normal(len(SPEECH))
    for start in range(0, len(SPEECH) - size, hop):
        place = slice(start, start + size)
        level = np.abs(np.fft.rfft(window * SPEECH[place]))
        phase = np.angle(np.fft.rfft(window * noise[place]))
        made[place] += window * np.fft.irfft(level * np.exp(1j * phase)) / 1.5
    found = trust(SPEECH + NOISE, changed(2.0, 3.0, made[2 * RATE : 3 * RATE]))
    assert found.score < 0.5
    assert found.parts["voice"] < 0.5


def test_one_channel_needs_no_row() -> None:
    made = changed(2.0, 2.5, 0.0)
    assert trust_of(SPEECH, RATE, made, RATE) == trust(SPEECH, made)


UNLIKE = {
    "a tail that is missing": (SPEECH[:-RATE], "an input of 8.000 s and an output of 7.000 s"),
    "nothing": (SPEECH[:0], "an output of 0.000 s cannot be compared: give both as long"),
    "NaN": (changed(1.0, 2.0, np.nan), "NaN or Inf cannot be compared"),
}


@pytest.mark.parametrize(("made", "problem"), UNLIKE.values(), ids=UNLIKE)
def test_what_cannot_be_compared_is_told_in_a_sentence(made: np.ndarray, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        trust(SPEECH, made)


def test_the_worst_channel_counts() -> None:
    made = np.stack([SPEECH, changed(2.0, 2.5, 0.0)])
    found = trust(np.stack([SPEECH, SPEECH]), made)
    assert found == trust(SPEECH, made[1])
    with pytest.raises(UserError, match="2 channels and an output of 1"):
        trust_of(made, RATE, made[:1], RATE)


@pytest.mark.slow
def test_another_voice_is_found_where_the_input_is_good() -> None:
    pytest.importorskip("resemblyzer", reason="no resemblyzer: no speaker compared")
    waveform, rate = read(SPOKEN)
    given = waveform[0, : 6 * rate]

    def parts(given: np.ndarray, made: np.ndarray) -> dict[str, float]:
        return trust_of(given, rate, made, rate, knows_voices=True).parts

    other = resample(given, rate, round(1.2 * rate))[: len(given)]  # slower: a larger head
    other = np.pad(other, (0, len(given) - len(other)))
    assert parts(given, given)["speaker"] > 0.99
    assert parts(given, other)["speaker"] < 0.5
    noise = np.random.default_rng(0).standard_normal(len(given)).astype(np.float32)
    hidden = given + 3 * np.std(given) * noise
    assert parts(hidden, given)["speaker"] > 0.99  # nobody can tell
    assert "speaker" not in trust_of(given, rate, given, rate).parts


def test_without_the_package_that_knows_voices_nothing_is_begun(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    for begin in (
        lambda: RestoreOptions(trust_speaker=True),
        lambda: trust_of(SPEECH, RATE, SPEECH, RATE, knows_voices=True),
    ):
        with pytest.raises(UserError, match=r"resemblyzer, which is not installed: pip install"):
            begin()


@pytest.mark.parametrize("size", [997, 5 * RATE])
def test_blocks_do_not_change_the_score(size: int) -> None:
    given = np.tile(SPEECH + NOISE, 4)[None]
    made = given.copy()
    made[:, 18 * RATE : 19 * RATE] *= 0.02
    expected = trust_of(given, RATE, made, RATE)
    meter = TrustMeter(RATE, RATE, 1)
    for start in range(0, given.shape[1], size):
        last = start + size >= given.shape[1]
        meter.push_input(given[:, start : start + size], last)
        meter.push_output(made[:, start : start + size], last)
    assert meter.finish() == expected
    assert expected.score < 0.5


def test_long_recordings_take_no_more_memory_than_short_ones() -> None:
    def peak(minutes: int) -> int:
        meter, block = TrustMeter(16000, 16000, 1), voice(1, 10.0, 16000)[None]
        tracemalloc.start()
        for number in range(6 * minutes):
            meter.push_input(block, last=number == 6 * minutes - 1)
            meter.push_output(block, last=number == 6 * minutes - 1)
        assert meter.finish().score > 0.99
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(4) < 1.1 * peak(1)


def restored(model, waveform: np.ndarray, sink: ArraySink | None = None, **options):
    restorer = Restorer(model, RestoreOptions(**options))
    rate = 8000
    sink = sink or ArraySink()
    job = restorer.job(Source.from_array(np.atleast_2d(waveform), rate), sink)
    for _ in restorer.restore_jobs([job]):
        assert job.error is None
    return job, sink.waveform


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", ["same", "uneven", "garbage"])
def test_chunks_of_5_and_of_20_s_have_one_score(stand_in, name: str, strength: float) -> None:
    waveform = np.tile(voice(3, 7.0, 8000), 5)
    scores = [
        restored(
            stand_in(name),
            waveform,
            trust=True,
            strength=strength,
            chunk_seconds=seconds,
            overlap_seconds=1,
        )[0].trust.score
        for seconds in (5, 20)
    ]
    assert abs(scores[0] - scores[1]) < 0.02
    assert (scores[0] < 0.2) == (name == "garbage")


def test_trust_is_measured_when_it_is_asked_for(stand_in) -> None:
    waveform = voice(1, 2.0, 8000)
    assert restored(stand_in("same"), waveform)[0].trust is None
    job, _ = restored(stand_in("same"), waveform, trust=True)
    assert job.trust.score > 0.99
    assert job.seconds["trust"] > 0


@pytest.mark.parametrize("level", ["match-input", "peak", "none"])
def test_too_little_trust_keeps_the_input(stand_in, level: str) -> None:
    waveform = voice(1, 3.0, 8000)
    job, output = restored(stand_in("garbage"), waveform, min_trust=0.6, level=level)
    assert job.kept_input
    assert job.trust.score < 0.6
    gain = 0.9 / np.abs(waveform).max() if level == "peak" else 1.0
    np.testing.assert_allclose(output[0], gain * waveform, atol=1e-6)
    job, output = restored(stand_in("same"), waveform, min_trust=0.6)
    assert not job.kept_input


def test_a_kept_input_has_the_rate_and_channels_of_the_output(stand_in) -> None:
    waveform = np.stack([voice(1, 3.0, 8000), voice(2, 3.0, 8000)])
    job, output = restored(
        stand_in("garbage"), waveform, min_trust=1.0, sample_rate=11025, channels="each"
    )
    assert job.kept_input
    assert output.shape == (2, (3 * 11025))


def test_a_long_recording_that_is_kept_takes_no_more_memory(
    stand_in, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(job_module, "KEPT_SAMPLES", 0)
    restorer = Restorer(stand_in("garbage"), RestoreOptions(min_trust=0.6, chunk_seconds=5.0))
    peaks = []
    for minutes in (1, 4):
        write_wav(tmp_path / "in.wav", np.tile(voice(1, 10.0, 8000), 6 * minutes), 8000)
        tracemalloc.start()
        with pytest.warns(Notice, match="the input was kept"):
            restorer.restore_file(tmp_path / "in.wav", tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_single_file_that_is_kept_is_told_in_a_notice(stand_in, tmp_path) -> None:
    write_wav(tmp_path / "in.wav", voice(1, 3.0, 8000), 8000)
    restorer = Restorer(stand_in("garbage"), RestoreOptions(min_trust=0.6))
    with pytest.warns(Notice, match=r"in\.wav: trust 0\.\d\d: .*; the input was kept"):
        restorer.restore_file(tmp_path / "in.wav", tmp_path / "out.wav")
    kept = [read(tmp_path / name)[0] for name in ("in.wav", "out.wav")]
    np.testing.assert_allclose(kept[0], kept[1], atol=1e-4)


def test_an_array_that_is_kept_is_told_in_a_notice(stand_in) -> None:
    waveform = voice(1, 3.0, 8000)
    restorer = Restorer(stand_in("garbage"), RestoreOptions(min_trust=0.6))
    with pytest.warns(Notice, match=r"the waveform: trust 0\.\d\d: .*; the input was kept"):
        kept, _ = restorer.restore(waveform, 8000)
    np.testing.assert_allclose(kept, waveform, atol=1e-6)


def test_an_input_that_is_kept_without_a_reason_is_told_too(stand_in, monkeypatch) -> None:
    monkeypatch.setattr(TrustMeter, "finish", lambda _: Trust(0.9, None, {}))
    restorer = Restorer(stand_in("same"), RestoreOptions(min_trust=0.95))
    with pytest.warns(Notice, match=r"trust 0\.90: nothing found; the input was kept"):
        restorer.restore(voice(1, 3.0, 8000), 8000)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trust_speaker": True, "trust": False}, "the speaker is a part of trust"),
        ({"min_trust": 1.01}, "least trust 1.01: choose 0"),
        ({"min_trust": -0.1}, "least trust -0.1: choose 0"),
        ({"min_trust": float("nan")}, "least trust nan: choose 0"),
        ({"min_trust": "much"}, "'much': give a number"),
        ({"min_trust": 0.5, "trust": False}, "trust is not measured"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(options: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        RestoreOptions(**options)
    assert "\n" not in str(error.value)


def test_only_what_changes_the_output_belongs_to_a_runs_identity() -> None:
    plain = RestoreOptions().identity
    assert RestoreOptions(trust=True).identity == plain
    assert RestoreOptions(trust=False).identity == plain
    assert RestoreOptions(trust_speaker=True).identity == plain
    kept = RestoreOptions(trust_speaker=True, min_trust=0.5).identity
    assert kept == {**plain, "min_trust": 0.5, "trust_speaker": True}
    assert RestoreOptions(min_trust=0.5).identity == {**plain, "min_trust": 0.5}
