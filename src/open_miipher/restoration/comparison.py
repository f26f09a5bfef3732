"""An input beside what was made of it: what both hold, in the same frames and bands.

Noise that went is no difference: the input's own noise floor is added to the output before the two
are compared. Nor is another level: it is matched where both have speech.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

RATE = 16000
"""Both signals are compared at this rate, in Hz."""

HOP = 256
"""Samples of a frame: 16 ms."""

WORDS = 24
"""The first bands, up to 4.4 kHz: they carry the words, and no band ends below."""

VOICED = 0.7
"""Periodicity of voices."""

_WINDOW, _FFT = 640, 1024
_NUM_BANDS, _LOWEST_HZ, _HIGHEST_HZ = 30, 150.0, 7600.0
_LAG_RATE = RATE // 2
LAGS = slice(_LAG_RATE // 400, _LAG_RATE // 70 + 1)
"""The periods of voices from 70 to 400 Hz, in samples of 8 kHz."""

_SMALLEST = 1e-12  # power; silence
_DB = 10 / math.log(10)


@dataclass(frozen=True)
class Analysis:
    """A slice of a signal, in frames of 16 ms.

    Attributes:
        power: (frames, bands), averaged over three frames.
        periodicity: (frames, lags): 1 where the sound repeats itself after this lag.
    """

    power: np.ndarray
    periodicity: np.ndarray


@cache
def _mel_basis() -> np.ndarray:
    """Return triangles on the mel scale: (bins, bands) float32."""
    low, high = (math.log1p(hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = np.linspace(low, high, _NUM_BANDS + 2)
    bins = np.log1p(np.fft.rfftfreq(_FFT, 1 / RATE) / 700)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.minimum(rise, fall).clip(min=0).astype(np.float32)


@cache
def _window() -> np.ndarray:
    return np.hanning(_WINDOW + 1)[:-1].astype(np.float32)


@cache
def _own_periodicity() -> np.ndarray:
    """Return what the window takes from the periodicity at each lag (Boersma 1993): (lags,)."""
    correlation = np.fft.irfft(np.abs(np.fft.rfft(_window(), 2 * _WINDOW)) ** 2)[::2]
    return (correlation / correlation[0])[LAGS].astype(np.float32)


def analyse(waveform: np.ndarray) -> Analysis:
    """Analyse (samples,) float32 at `RATE`."""
    from scipy import fft  # here, so that help is printed without it

    num_frames = -(-len(waveform) // HOP)
    padded = np.pad(waveform, (_WINDOW // 2, _WINDOW))
    cut = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][:num_frames]
    spectrum = fft.rfft(cut * _window(), _FFT, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2) / np.float32(_WINDOW)
    voice = power[:, : _FFT // 4 + 1].copy()  # half of the band: lags of 1 / _LAG_RATE
    voice[:, : 80 * _FFT // RATE] = 0
    voice[:, 2000 * _FFT // RATE :] = 0
    correlation = fft.irfft(voice, axis=1)[:, : LAGS.stop]
    periodicity = correlation[:, LAGS] / (correlation[:, :1] + np.float32(_SMALLEST))
    bands = np.pad(power @ _mel_basis(), ((1, 1), (0, 0)), mode="edge")
    smooth = (bands[:-2] + bands[1:-1] + bands[2:]) / np.float32(3)
    return Analysis(smooth, periodicity / _own_periodicity())


class Comparison:
    """A slice of the input beside the same of the output; all levels in dB.

    Attributes:
        floor: (bands,) of the input's noise.
        given: (frames, bands) of the input above its floor.
        made: (frames, bands) of the output, with the input's floor added, above that.
        heard: (bands,) whether the input has anything there; a band that ends early has not.
        lags: two of (frames,): the lag after which input and output repeat themselves.
        voiced: two of (frames,): the periodicity at that lag.
        shared: two of (frames,): the output's periodicity at the input's lag, and the input's at
            the output's.
        gain: of power, that brings the output to the level of the input.
        loudness: two of (frames,): input and output in the words' bands above the floor in them.
    """

    def __init__(self, given: Analysis, made: Analysis, gain: float) -> None:
        frames = min(len(given.power), len(made.power))
        powers = given.power[:frames].astype(np.float64), made.power[:frames].astype(np.float64)
        loud = np.percentile(powers[0], 95, axis=0)
        # Twice: a low percentile of noise is about 3 dB below its mean. Nobody misses what is
        # 30 dB below a band's loud moments, or 50 dB below the loudest band's.
        floor = 2 * np.percentile(powers[0], 10, axis=0)
        floor = np.maximum(floor, np.maximum(1e-3 * loud, 1e-5 * loud.max())) + _SMALLEST
        self.heard = loud > 1e-4 * loud.max()
        both = given.periodicity[:frames], made.periodicity[:frames]
        self.lags = [periodicity.argmax(axis=1) for periodicity in both]
        self.voiced = [periodicity.max(axis=1) for periodicity in both]
        self.shared = [_around(both[1], self.lags[0]), _around(both[0], self.lags[1])]
        speech = (powers[0] > 4 * floor) & (self.voiced[0] > VOICED)[:, None]
        self.gain = _gain((powers[0] - floor)[speech], powers[1][speech], gain)
        self.given = _DB * np.log1p(powers[0] / floor)
        self.made = _DB * np.log1p(self.gain * powers[1] / floor)
        total = floor[:WORDS].sum()
        self.loudness = [
            _DB * np.log((power[:, :WORDS].sum(axis=1) + _SMALLEST) / total)
            for power in (powers[0], self.gain * powers[1])
        ]


def _around(periodicity: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return the periodicity (frames, lags) at a lag of each frame, or beside it: (frames,)."""
    places = (lags[:, None] + [-1, 0, 1]).clip(0, periodicity.shape[1] - 1)
    return np.take_along_axis(periodicity, places, axis=1).max(axis=1)


def _gain(given: np.ndarray, made: np.ndarray, before: float) -> float:
    """Fit the gain of the output's power on (cells,) of speech; too few: as before."""
    made = made + _SMALLEST
    there = made > 1e-5 * made.max(initial=0.0)  # what is gone says nothing of the level
    if there.sum() < 100:
        return before
    ratio = np.median(np.log(given[there]) - np.log(made[there]))
    return math.exp(min(max(float(ratio), -11.5), 11.5))  # 50 dB
