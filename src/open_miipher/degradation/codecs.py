"""Lossy codecs as stages. One that fails is noted in the trace and leaves the waveform alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from open_miipher.audio import codec
from open_miipher.base.errors import UserError
from open_miipher.degradation.base import Context, Stage, Trace, check_range


class Mp3(Stage):
    """MP3 at a constant bit rate."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            bit_rates: in kb/s.
        """

        bit_rates: list[float] = field(default_factory=lambda: [16, 32, 64, 128])

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate
        self.bit_rates = _choices("mp3 bit_rates", config.bit_rates, 8, 320)

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through MP3 at a drawn bit rate."""
        bit_rate = float(rng.choice(self.bit_rates))
        return _attempt("mp3", codec.mp3, waveform, trace, self.sample_rate, bit_rate=bit_rate)


class Mp3Vbr(Stage):
    """MP3 at a variable bit rate."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            quality: 0 … 9 as lame's `-V`, 0 is the best.
        """

        quality: tuple[float, float] = (0.0, 9.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("mp3_vbr quality", config.quality, 0, 9)
        self.sample_rate = context.sample_rate
        self.config = config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through MP3 at a drawn quality."""
        quality = rng.uniform(*self.config.quality)
        return _attempt(
            "mp3_vbr", codec.mp3_vbr, waveform, trace, self.sample_rate, quality=quality
        )


class Vorbis(Stage):
    """Ogg Vorbis at a constant quality."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            qualities: 0 … 10, as oggenc's `-q`; -1 is out of libsndfile's reach.
        """

        qualities: list[float] = field(default_factory=lambda: [0, 1])

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate
        self.qualities = _choices("vorbis qualities", config.qualities, 0, 10)

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through Vorbis at a drawn quality."""
        quality = float(rng.choice(self.qualities))
        return _attempt("vorbis", codec.vorbis, waveform, trace, self.sample_rate, quality=quality)


class Opus(Stage):
    """Ogg Opus at a nominal bit rate."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            bit_rates: in kb/s, 6 … 256.
        """

        bit_rates: list[float] = field(default_factory=lambda: [8, 16, 24, 32])

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate
        self.bit_rates = _choices("opus bit_rates", config.bit_rates, 6, 256)

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through Opus at a drawn bit rate."""
        bit_rate = float(rng.choice(self.bit_rates))
        return _attempt("opus", codec.opus, waveform, trace, self.sample_rate, bit_rate=bit_rate)


class ALaw(Stage):
    """G.711 A-law."""

    @dataclass
    class Config:
        """Nothing to draw."""

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through A-law."""
        return _attempt("a_law", codec.a_law, waveform, trace, self.sample_rate)


class MuLaw(Stage):
    """G.711 mu-law."""

    @dataclass
    class Config:
        """Nothing to draw."""

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through mu-law."""
        return _attempt("mu_law", codec.mu_law, waveform, trace, self.sample_rate)


def _attempt(
    name: str,
    round_trip: Callable[..., np.ndarray],
    waveform: np.ndarray,
    trace: Trace,
    sample_rate: int,
    **setting: float,
) -> np.ndarray:
    try:
        decoded = round_trip(waveform, sample_rate, **setting)
    except codec.CodecError as error:
        trace.failures.append(f"{name}: {error}")
        return waveform.copy()
    trace.drawn.append({"name": name, **setting})
    return decoded


def _choices(name: str, values: list[float], low: float, high: float) -> list[float]:
    if not values or not all(low <= value <= high for value in values):
        raise UserError(f"{name}={values} must be some numbers within {low} … {high}")
    return values
