"""Measures on signals whose values are known, and against the packages that they come from."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import firwin, stft

from open_miipher.base.errors import UserError
from open_miipher.evaluation.measures import (
    MEASURES,
    CannotMeasureError,
    Settings,
    Signal,
    lag,
    length_difference,
    level_and_band,
    load_measures,
    log_spectral_distance,
    mel_cepstral_distance,
)

RATE = 24000
SETTINGS = Settings()
COMPARED = ("log_spectral_distance", "mel_distances")
NISQA_WEIGHTS = Path(__file__).parents[3] / "shared/models/nisqa/nisqa.tar"


def noise(seed=0, seconds=1.0, rate=RATE):
    return np.random.default_rng(seed).standard_normal(int(seconds * rate)).astype(np.float32) / 10


def speechlike(seconds=3.0, rate=16000):
    """A buzz in syllables: enough for measures that look for speech."""
    time = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 40))
    return (0.1 * buzz * (np.sin(2 * np.pi * 3 * time) > -0.3)).astype(np.float32)


def loaded(name):
    return MEASURES[name].load(SETTINGS)


def test_level_and_bandwidth_of_a_sine_and_of_low_passed_noise():
    time = np.arange(RATE) / RATE
    sine = (0.5 * np.sin(2 * np.pi * 1500 * time)).astype(np.float32)
    values = level_and_band(Signal(sine, RATE), None)
    assert values["level_db"] == pytest.approx(-9.03, abs=0.01)
    assert values["bandwidth_hz"] == pytest.approx(1500, abs=70)  # the window's own width
    low_passed = np.convolve(noise(seconds=2), firwin(801, 4000, fs=RATE), "same")
    values = level_and_band(Signal(low_passed.astype(np.float32), RATE), None)
    assert values["bandwidth_hz"] == pytest.approx(4000, abs=120)


def test_the_log_spectral_distance_is_what_its_definition_says():
    reference = noise(0)
    estimate = 0.3 * np.convolve(reference, [1.0, -0.9], "same").astype(np.float32)
    size = 1024
    powers = []
    for x in (reference, estimate):
        x = x / np.sqrt(np.mean(x.astype(np.float64) ** 2))
        _, _, z = stft(x, window="hann", nperseg=size, noverlap=3 * size // 4, boundary=None)
        powers.append(np.abs(z * size / 2) ** 2)  # scipy divides by the window's sum
    floor = powers[0].max() * 1e-8
    first, second = (10 * np.log10(np.maximum(p, floor)) for p in powers)
    expected = np.sqrt(((first - second) ** 2).mean(axis=0)).mean()
    values = log_spectral_distance(Signal(estimate, RATE), Signal(reference, RATE))
    assert values["log_spectral_distance"] == pytest.approx(expected, rel=1e-3)


def test_the_log_spectral_distance_does_not_depend_on_levels():
    reference, estimate = Signal(noise(0), RATE), Signal(noise(1), RATE)
    quieter = Signal(0.01 * estimate.waveform, RATE)
    value = log_spectral_distance(estimate, reference)["log_spectral_distance"]
    again = log_spectral_distance(quieter, reference)["log_spectral_distance"]
    assert again == pytest.approx(value, rel=1e-5)
    same = log_spectral_distance(Signal(0.5 * reference.waveform, RATE), reference)
    assert same["log_spectral_distance"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("late_ms", [0.0, 12.5, -37.5, 400.0])
def test_the_lag_is_that_of_a_delayed_copy_in_noise_of_either_sign(rate, late_ms):
    speech, late = speechlike(3.0, rate) + noise(2, 3.0, rate), round(late_ms * rate / 1000)
    delayed = np.roll(-0.3 * speech, late) + 0.3 * noise(3, 3.0, rate)
    values = lag(Signal(delayed.astype(np.float32), rate), Signal(speech, rate))
    assert values["lag_ms"] == pytest.approx(1000 * late / rate, abs=0.02)


def test_the_lag_is_told_to_a_fraction_of_a_sample_and_across_rates():
    fast = np.convolve(noise(0, 2.0, 48000), firwin(201, 6000, fs=48000), "same")
    late = Signal(np.roll(fast, 1).astype(np.float32), 48000)  # a third of a sample at 16 kHz
    values = lag(late, Signal(fast[::3].astype(np.float32), 16000))
    assert values["lag_ms"] == pytest.approx(1 / 48, abs=0.004)


def test_a_copy_is_not_late_by_what_was_rounded():
    speech = noise(0)
    values = lag(Signal(speech, RATE), Signal(speech * np.float32(0.7), RATE))
    assert str(values["lag_ms"]) == "0.0"


def test_other_speech_has_no_lag_and_too_late_is_not_found():
    with pytest.raises(CannotMeasureError, match=r"within 0\.5 s is it like its reference"):
        lag(Signal(noise(0), RATE), Signal(noise(1), RATE))
    with pytest.raises(CannotMeasureError, match="is it like its reference"):
        lag(Signal(np.roll(noise(0, 3.0), RATE), RATE), Signal(noise(0, 3.0), RATE))


def test_the_length_difference_is_in_ms_whatever_the_rates():
    longer = Signal(noise(seconds=1.25, rate=48000), 48000)
    values = length_difference(longer, Signal(noise(seconds=1.0), RATE))
    assert values["length_difference_ms"] == pytest.approx(250)


def test_estoi_and_pesq_are_what_their_packages_say():
    pystoi, pesq = pytest.importorskip("pystoi"), pytest.importorskip("pesq")
    clean = speechlike()
    damaged = clean + noise(1, 3.0, 16000)
    pair = Signal(damaged, 16000), Signal(clean, 16000)
    expected = pystoi.stoi(clean, damaged, 16000, extended=True)
    assert loaded("estoi")(*pair)["estoi"] == pytest.approx(expected, abs=1e-6)
    expected = pesq.pesq(16000, clean, damaged, "wb")
    assert loaded("pesq")(*pair)["pesq"] == pytest.approx(expected, abs=1e-6)


def test_speaker_similarity_is_the_cosine_of_its_package_s_embeddings():
    resemblyzer = pytest.importorskip("resemblyzer")
    one, other = speechlike(), (speechlike() * (1 + noise(4, 3.0, 16000))).astype(np.float32)
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
    voices = [resemblyzer.preprocess_wav(x, source_sr=16000) for x in (one, other)]
    first, second = (encoder.embed_utterance(x) for x in voices)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    values = loaded("speaker_similarity")(Signal(one, 16000), Signal(other, 16000))
    assert values["speaker_similarity"] == pytest.approx(expected, abs=1e-5)


def test_every_column_has_a_name_of_its_own_and_a_title():
    columns = [column for measure in MEASURES.values() for column in measure.values]
    assert len({column.name for column in columns}) == len(columns)
    assert all(column.title for column in columns)


def test_the_mel_cepstral_distance_of_a_known_change_of_the_cepstrum():
    wanted = np.random.default_rng(0).standard_normal((50, 80))
    band = np.arange(80) + 0.5

    def changed(**by):
        return wanted + sum(a * np.cos(np.pi * int(d[1:]) * band / 80) for d, a in by.items())

    to_decibels = 10 / np.log(10)
    one = mel_cepstral_distance(changed(c3=0.2), wanted)
    assert one == pytest.approx(to_decibels * np.sqrt(2) * 0.2)
    two = mel_cepstral_distance(changed(c1=0.3, c13=0.4), wanted)
    assert two == pytest.approx(to_decibels * np.sqrt(2) * 0.5)
    # c_0 is the level, c_14 too fine
    assert mel_cepstral_distance(changed(c0=5.0, c14=1.0), wanted) == pytest.approx(0, abs=1e-9)
    # with all coefficients, Parseval: the difference of the bands in dB
    other = np.random.default_rng(1).standard_normal((50, 80))
    difference = 20 / np.log(10) * (other - wanted)
    difference -= difference.mean(axis=1, keepdims=True)
    every = mel_cepstral_distance(other, wanted, 79)
    assert every == pytest.approx(np.sqrt((difference**2).mean(axis=1)).mean())


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_mel_distances_of_another_level_and_of_nothing(rate):
    reference = Signal(noise(0, 1.0, rate), rate)
    distances = loaded("mel_distances")
    assert distances(reference, reference) == {"mel_cepstral_distance": 0, "log_mel_distance": 0}
    louder = distances(Signal(2 * reference.waveform, rate), reference)
    assert louder["log_mel_distance"] == pytest.approx(np.log(2), rel=1e-4)
    assert louder["mel_cepstral_distance"] == pytest.approx(0, abs=1e-3)
    other = distances(Signal(noise(1, 1.0, rate), rate), reference)
    coloured = np.convolve(reference.waveform, [1.0, -0.95], "same").astype(np.float32)
    tilted = distances(Signal(coloured, rate), reference)
    assert other["mel_cepstral_distance"] < tilted["mel_cepstral_distance"]


@pytest.mark.parametrize(
    "name", ["level", "log_spectral_distance", "mel_distances", "dnsmos", "estoi", "pesq"]
)
def test_silence_has_no_value_and_says_so(name):
    pytest.importorskip({"dnsmos": "speechmos", "estoi": "pystoi", "pesq": "pesq"}.get(name, "sys"))
    silence = Signal(np.zeros(48000, dtype=np.float32), 16000)
    speech = Signal(speechlike(), 16000)
    with pytest.raises(CannotMeasureError, match="it is silent"):
        loaded(name)(silence, speech)
    if MEASURES[name].needs_reference:
        with pytest.raises(CannotMeasureError, match="its reference is silent"):
            loaded(name)(speech, silence)


@pytest.mark.parametrize("num_samples", [1, 2, 50])
@pytest.mark.parametrize(
    "name", ["level", "log_spectral_distance", "mel_distances", "dnsmos", "estoi", "pesq"]
)
def test_what_is_too_short_has_no_value_and_says_so(name, num_samples):
    pytest.importorskip({"dnsmos": "speechmos", "estoi": "pystoi", "pesq": "pesq"}.get(name, "sys"))
    signal = Signal(noise()[:num_samples], RATE)
    with pytest.raises(CannotMeasureError, match="it is shorter than"):
        loaded(name)(signal, signal)


def test_equal_recordings_have_the_best_values():
    signal = Signal(speechlike(), 16000)
    for name, best in {"estoi": 1.0, "pesq": 4.644, "speaker_similarity": 1.0}.items():
        pytest.importorskip(
            {"estoi": "pystoi", "speaker_similarity": "resemblyzer"}.get(name, name)
        )
        assert loaded(name)(signal, signal)[name] == pytest.approx(best, abs=1e-3), name


def test_noise_lowers_every_value_that_hears_it():
    clean = Signal(speechlike(), 16000)
    steps = [Signal(clean.waveform + x * noise(1, 3, 16000), 16000) for x in (0.1, 1.0)]
    for name, best in {"estoi": 1.0, "pesq": 4.644}.items():
        pytest.importorskip({"estoi": "pystoi"}.get(name, name))
        little, much = (loaded(name)(signal, clean)[name] for signal in steps)
        assert best > little > much, name


def test_dnsmos_is_what_its_package_says():
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    waveform = speechlike(10.0)
    values = loaded("dnsmos")(Signal(waveform, 16000), None)
    expected = dnsmos.run(waveform, 16000)
    assert values["dnsmos_overall"] == pytest.approx(expected["ovrl_mos"], abs=1e-5)
    assert tuple(values) == MEASURES["dnsmos"].columns


def test_nisqa_is_what_its_package_says(tmp_path):
    model = pytest.importorskip("nisqa.NISQA_model")
    if not NISQA_WEIGHTS.is_file():
        pytest.skip("the weights of NISQA are not here")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", noise(3, 2.3), RATE, subtype="FLOAT")
    arguments = {
        "mode": "predict_file",
        "pretrained_model": str(NISQA_WEIGHTS),
        "deg": str(tmp_path / "a.wav"),
        **{"output_dir": None, "tr_bs_val": 1, "tr_num_workers": 0, "tr_parallel": False},
        **{"ms_channel": None, "tr_device": "cpu"},
    }
    row = model.nisqaModel(arguments).predict().iloc[0]
    values = MEASURES["nisqa"].load(Settings(NISQA_WEIGHTS))(Signal(noise(3, 2.3), RATE), None)
    assert values["nisqa"] == pytest.approx(row["mos_pred"], abs=1e-4)
    assert values["nisqa_loudness"] == pytest.approx(row["loud_pred"], abs=1e-4)


def test_what_cannot_be_loaded_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)  # as if it were not installed
    measures, left_out = load_measures(SETTINGS, has_reference=True)
    assert "log_spectral_distance" in measures
    assert "needs a C compiler" in left_out["pesq"]
    assert "--nisqa-weights" in left_out["nisqa"]
    alone, left_out = load_measures(SETTINGS, has_reference=False)
    assert "level" in alone
    assert "--reference-dir" in left_out["estoi"]


def test_weights_that_are_none_are_named(tmp_path):
    pytest.importorskip("nisqa")
    (tmp_path / "nisqa.tar").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"nisqa\.tar does not hold the weights"):
        MEASURES["nisqa"].load(Settings(tmp_path / "nisqa.tar"))


def test_only_what_is_asked_for_is_taken():
    only = Settings(only=("level", "estoi"))
    assert set(load_measures(only, True)[0]) <= {"level", "estoi"}
    loaded_ones, left_out = load_measures(only, False)
    assert (set(loaded_ones), set(left_out)) == ({"level"}, {"estoi"})
    with pytest.raises(UserError, match="there is no measure mos; there are level, dnsmos"):
        load_measures(Settings(only=("mos",)), True)
