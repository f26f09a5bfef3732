"""What can be measured of a recording, with or without the clean one beside it.

Each measure is loaded once a process and brings its package with it; one whose package is missing
is left out and named (`load_measures`). PESQ, ESTOI, DNSMOS, NISQA and speaker similarity come from
the packages of their authors, or those that the field uses.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from open_miipher.audio import spectral
from open_miipher.audio.resample import resample
from open_miipher.audio.spectral import power_spectra, window_length
from open_miipher.base.errors import UserError, report
from open_miipher.evaluation.results import Column
from open_miipher.evaluation.words import error_rates, load_hearing

Values = dict[str, float]

_MEL_BANDS, _MEL_FLOOR = 80, 1e-5  # up to 8 kHz; of a magnitude
_LAG_RATE, _LAG_SECONDS, _MOST_LAG = 16000, 300, 0.5  # Hz, s of a recording, s
_LEAST_LIKENESS = 0.1  # correlation; of other speech of a second or more it is about 0.05


@dataclass
class Signal:
    """A recording, mono.

    Attributes:
        waveform: (samples,) float32.
        sample_rate: Hz.
        text: what is said in it; None: not known.
    """

    waveform: np.ndarray
    sample_rate: int
    text: str | None = None

    def at(self, sample_rate: int) -> np.ndarray:
        """Return the waveform at another rate."""
        return resample(self.waveform, self.sample_rate, sample_rate)


Measured = Callable[[Signal, Signal | None], Values]


class CannotMeasureError(Exception):
    """This recording has no such value; the message says why."""


@dataclass
class Measure:
    """One or several values of a recording.

    Attributes:
        values: what they are.
        needs_reference: it compares with the clean recording.
        load: brings what it needs and returns the function; raises ImportError or UserError.
        install: how to get what `load` imports.
        is_aligned: it takes the recording and the clean one at one rate and equally long.
        needs_text: it compares with what is said.
    """

    values: tuple[Column, ...]
    needs_reference: bool
    load: Callable[["Settings"], Measured]
    install: str = "pip install '.[evaluation]'"
    is_aligned: bool = True
    needs_text: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(value.name for value in self.values)


@dataclass
class Settings:
    """What the measures need from the user.

    Attributes:
        only: names of the measures to take; empty: all that can be taken.
        nisqa_weights: the file nisqa.tar, which no package has; None: no NISQA.
        words: what hears words (`words.load_hearing`); None: nothing.
    """

    nisqa_weights: Path | None = None
    only: tuple[str, ...] = ()
    words: str | None = None


def load_measures(
    settings: Settings, has_reference: bool, has_text: bool = False
) -> tuple[dict[str, Measured], dict[str, str]]:
    """Load what can be loaded.

    Args:
        settings: see `Settings`.
        has_reference: without, measures that need a clean recording are left out.
        has_text: without, those that need a text are.

    Returns:
        Functions by name, and the reason for each that was left out.

    Raises:
        UserError: `settings.only` has a name that no measure has.
    """
    unknown = [name for name in settings.only if name not in MEASURES]
    report([f"there is no measure {name}; there are {', '.join(MEASURES)}" for name in unknown])
    loaded, left_out = {}, {}
    for name, measure in MEASURES.items():
        if settings.only and name not in settings.only:
            continue
        if measure.needs_reference and not has_reference:
            left_out[name] = "give clean recordings to compare with: --reference-dir"
            continue
        if measure.needs_text and not has_text:
            left_out[name] = "give what is said, and what hears it: --text and --words"
            continue
        try:
            loaded[name] = measure.load(settings)
        except ImportError as error:
            left_out[name] = f"{error}: {measure.install}"
        except UserError as error:
            left_out[name] = str(error)
    return loaded, left_out


def level_and_band(signal: Signal, _: Signal | None) -> Values:
    """Return the level (dB of full scale) and the bandwidth (Hz).

    The bandwidth is the frequency above which every bin of the mean power spectrum lies 50 dB or
    more below the highest bin.
    """
    _check_audible(signal)
    waveform = torch.from_numpy(signal.waveform.astype(np.float64))
    level = 10 * float(waveform.square().mean().log10())
    size = window_length(signal.sample_rate)
    spectrum = power_spectra(waveform[None], size)[0].mean(dim=1)
    highest = int((spectrum > spectrum.max() * 1e-5).nonzero()[-1])
    return {"level_db": level, "bandwidth_hz": highest * signal.sample_rate / size}


def log_spectral_distance(signal: Signal, reference: Signal | None) -> Values:
    """Return the log-spectral distance in dB (`audio.spectral.log_spectral_distance`)."""
    assert reference is not None
    _check_audible(signal, reference)
    wanted, given = (
        torch.from_numpy(x.waveform.astype(np.float64))[None] for x in (reference, signal)
    )
    distance = spectral.log_spectral_distance(wanted, given, reference.sample_rate)
    return {"log_spectral_distance": float(distance[0])}


def length_difference(signal: Signal, reference: Signal | None) -> Values:
    """Return by how many ms the recording is longer than its reference."""
    assert reference is not None
    seconds = [len(x.waveform) / x.sample_rate for x in (signal, reference)]
    return {"length_difference_ms": 1000 * (seconds[0] - seconds[1])}


def lag(signal: Signal, reference: Signal | None) -> Values:
    """Return by how many ms the recording is later than its reference.

    That is where the cross-correlation at 16 kHz is largest, of either sign, up to 0.5 s apart, to
    a fraction of a sample by the parabola through the neighbours; of the first five minutes. Less
    than a thousandth of a ms is rounding, and none.
    """
    from scipy.signal import correlate, correlation_lags  # slow to import

    assert reference is not None
    _check_audible(signal, reference)
    pair = [x.at(_LAG_RATE)[: _LAG_SECONDS * _LAG_RATE] for x in (signal, reference)]
    given, wanted = (x.astype(np.float64) for x in pair)
    lags = correlation_lags(len(given), len(wanted))
    near = np.abs(lags) <= _MOST_LAG * _LAG_RATE
    likeness = np.abs(correlate(given, wanted, method="fft")[near])
    best = int(likeness.argmax())
    whole = np.linalg.norm(given) * np.linalg.norm(wanted)
    if not likeness[best] > _LEAST_LIKENESS * whole:
        raise CannotMeasureError(f"nowhere within {_MOST_LAG:g} s is it like its reference")
    place = float(lags[near][best])
    if 0 < best < len(likeness) - 1:
        before, at, after = likeness[best - 1 : best + 2]
        place += (before - after) / (2 * (before - 2 * at + after))
    return {"lag_ms": round(1000 * place / _LAG_RATE, 3) + 0.0}  # no -0.0


def _load_mel_distances(_: Settings) -> Measured:
    from open_miipher.audio.mel import LogMel, MelConfig

    @lru_cache(maxsize=4)
    def front_end(rate: int) -> LogMel:
        size = window_length(rate)
        top = min(8000.0, rate / 2)
        return LogMel(MelConfig(rate, size, size, size // 4, _MEL_BANDS, 20.0, top, _MEL_FLOOR))

    def distances(signal: Signal, reference: Signal | None) -> Values:
        assert reference is not None
        _check_audible(signal, reference)
        waveforms = np.stack([signal.waveform, reference.waveform]).astype(np.float32)
        with torch.inference_mode():
            given, wanted = front_end(signal.sample_rate)(torch.from_numpy(waveforms)).numpy()
        return {
            "mel_cepstral_distance": mel_cepstral_distance(given, wanted),
            "log_mel_distance": float(np.abs(given - wanted).mean()),
        }

    return distances


def mel_cepstral_distance(
    given: np.ndarray, wanted: np.ndarray, num_coefficients: int = 13
) -> float:
    """Return the mel-cepstral distance in dB, which does not depend on the level.

    Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", 1993: the
    mean over frames of (10 / ln 10) · √(2 Σ (c_d - c'_d)²), c_1 … c_D being the cepstrum of the log
    spectrum, ln |M| = c_0 + Σ c_d cos(…). With all coefficients, that is the root mean square over
    the bands of their difference in dB, less its mean.

    Args:
        given: (frames, bands), natural logarithms of mel magnitudes.
        wanted: likewise.
        num_coefficients: D.
    """
    from scipy.fft import dct  # slow to import

    cepstrum = dct(given.astype(np.float64) - wanted, axis=1) / given.shape[1]
    squares = np.square(cepstrum[:, 1 : 1 + num_coefficients]).sum(axis=1)
    return float(10 / np.log(10) * np.sqrt(2 * squares).mean())


def _check_audible(signal: Signal, reference: Signal | None = None, seconds: float = 0.02) -> None:
    if len(signal.waveform) < seconds * signal.sample_rate:
        raise CannotMeasureError(f"it is shorter than {seconds:g} s")
    if not np.any(signal.waveform):
        raise CannotMeasureError("it is silent")
    if reference is not None and not np.any(reference.waveform):
        raise CannotMeasureError("its reference is silent")


def _load_estoi(_: Settings) -> Measured:
    import pystoi

    def estoi(signal: Signal, reference: Signal | None) -> Values:
        assert reference is not None
        _check_audible(signal, reference, seconds=0.4)
        value = pystoi.stoi(reference.waveform, signal.waveform, signal.sample_rate, extended=True)
        if value <= 1e-5:  # what it returns, with a warning, for too little speech
            raise CannotMeasureError("it has less than 0.4 s of speech")
        return {"estoi": float(value)}

    return estoi


def _load_pesq(_: Settings) -> Measured:
    from pesq import PesqError, pesq

    def wide_band(signal: Signal, reference: Signal | None) -> Values:
        assert reference is not None
        _check_audible(signal, reference)
        try:
            value = pesq(16000, reference.at(16000), signal.at(16000), "wb")
        except (PesqError, ValueError) as error:
            raise CannotMeasureError(f"PESQ finds no utterances ({error!r})") from error
        return {"pesq": float(value)}

    return wide_band


def _load_dnsmos(_: Settings) -> Measured:
    import onnxruntime
    from speechmos import dnsmos

    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    scorer = dnsmos.DNSMOS(*paths)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # files are measured side by side instead
    scorer.onnx_sess, scorer.p808_onnx_sess = (
        onnxruntime.InferenceSession(path, options) for path in paths
    )

    def score(signal: Signal, _: Signal | None) -> Values:
        waveform = np.clip(signal.at(16000), -1, 1)
        _check_audible(Signal(waveform, 16000))  # its features of silence are not finite
        values = scorer(waveform, 16000, False)
        names = {"overall": "ovrl", "signal": "sig", "background": "bak", "p808": "p808"}
        return {f"dnsmos_{name}": float(values[f"{key}_mos"]) for name, key in names.items()}

    return score


def _load_nisqa(settings: Settings) -> Measured:
    path = settings.nisqa_weights
    if path is None:
        raise UserError("its weights come with no package: give --nisqa-weights nisqa.tar")
    import librosa
    from nisqa import NISQA_lib

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        args: Mapping[str, Any] = saved["args"]
        fields = NISQA_lib.NISQA_DIM.__init__.__code__.co_varnames
        model = NISQA_lib.NISQA_DIM(**{k: v for k, v in args.items() if k in fields})
        model.load_state_dict(saved["model_state_dict"])
    except (OSError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise UserError(f"{path} does not hold the weights of NISQA v2: {error}") from error
    model.eval()

    def score(signal: Signal, _: Signal | None) -> Values:
        _check_audible(signal, seconds=0.15)
        rate = signal.sample_rate
        with warnings.catch_warnings():  # a band above half the rate has no bins: so be it
            warnings.filterwarnings("ignore", "Empty filters detected")
            mel = librosa.feature.melspectrogram(
                y=signal.waveform,
                sr=rate,
                n_fft=args["ms_n_fft"],
                hop_length=int(rate * args["ms_hop_length"]),
                win_length=int(rate * args["ms_win_length"]),
                pad_mode="reflect",
                power=1.0,
                n_mels=args["ms_n_mels"],
                fmax=args["ms_fmax"],
            )
        decibels = librosa.amplitude_to_db(mel, ref=1.0, amin=1e-4, top_db=80.0)
        length, hop = args["ms_seg_length"], args["ms_seg_hop_length"]
        longest = args["ms_max_segments"] * hop + length - 1
        segments, count = NISQA_lib.segment_specs("", decibels[:, :longest], length, hop)
        with torch.no_grad():
            values = model(segments[None].float(), torch.from_numpy(count)[None])[0]
        names = ("nisqa", "nisqa_noisiness", "nisqa_discontinuity", "nisqa_coloration")
        return dict(zip((*names, "nisqa_loudness"), values.tolist(), strict=True))

    return score


def _load_similarity(_: Settings) -> Measured:
    from open_miipher.audio.voices import likeness, load_voices

    load_voices()

    def similarity(signal: Signal, reference: Signal | None) -> Values:
        assert reference is not None
        _check_audible(signal, reference, seconds=0.5)
        alike = likeness(signal.waveform, reference.waveform, signal.sample_rate)
        if alike is None:
            raise CannotMeasureError("it has less than half a second of speech")
        return {"speaker_similarity": alike}

    return similarity


def _load_words(settings: Settings) -> Measured:
    if settings.words is None:
        raise UserError("it needs a recogniser: give --words")
    hear = load_hearing(settings.words)

    def rates(signal: Signal, _: Signal | None) -> Values:
        wrong = error_rates(signal.text or "", hear(signal.waveform, signal.sample_rate))
        if wrong is None:
            raise CannotMeasureError("its text has no words")
        return {"word_error_rate": wrong[0], "character_error_rate": wrong[1]}

    return rates


def _opinions(prefix: str, names: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(f"{prefix}{k}", title, "1-5", True) for k, title in names.items())


MEASURES: dict[str, Measure] = {
    "level": Measure(
        (
            Column("level_db", "Level", "dB"),
            Column("bandwidth_hz", "Bandwidth", "Hz"),
        ),
        False,
        lambda _: level_and_band,
    ),
    "dnsmos": Measure(
        _opinions(
            "dnsmos_",
            {
                "overall": "DNSMOS",
                "signal": "DNSMOS of the speech",
                "background": "DNSMOS of the background",
                "p808": "DNSMOS P.808",
            },
        ),
        False,
        _load_dnsmos,
    ),
    "nisqa": Measure(
        _opinions(
            "nisqa",
            {
                "": "NISQA",
                "_noisiness": "NISQA: no noise",
                "_discontinuity": "NISQA: no gaps",
                "_coloration": "NISQA: no coloration",
                "_loudness": "NISQA: loudness",
            },
        ),
        False,
        _load_nisqa,
        # It asks for other versions of torch and NumPy, but works with ours.
        "pip install --no-deps nisqa pandas, and librosa",
    ),
    "words": Measure(
        (
            Column("word_error_rate", "Wrong words", "", False),
            Column("character_error_rate", "Wrong characters", "", False),
        ),
        False,
        _load_words,
        "pip install '.[words]'",
        needs_text=True,
    ),
    "length": Measure(
        (Column("length_difference_ms", "Longer than the reference", "ms"),),
        True,
        lambda _: length_difference,
        is_aligned=False,
    ),
    "lag": Measure(
        (Column("lag_ms", "Later than the reference", "ms"),), True, lambda _: lag, is_aligned=False
    ),
    "estoi": Measure((Column("estoi", "ESTOI", "0-1", True),), True, _load_estoi),
    "pesq": Measure(
        (Column("pesq", "PESQ", "1-4.64", True),),
        True,
        _load_pesq,
        "pip install pesq, which needs a C compiler",
    ),
    "log_spectral_distance": Measure(
        (Column("log_spectral_distance", "Log-spectral distance", "dB", False),),
        True,
        lambda _: log_spectral_distance,
    ),
    "mel_distances": Measure(
        (
            Column("mel_cepstral_distance", "Mel-cepstral distance", "dB", False),
            Column("log_mel_distance", "Log-mel distance", "", False),
        ),
        True,
        _load_mel_distances,
    ),
    "speaker_similarity": Measure(
        (Column("speaker_similarity", "Same voice", "-1-1", True),), True, _load_similarity
    ),
}
"""All measures by name."""
