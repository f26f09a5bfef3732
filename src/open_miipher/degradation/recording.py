"""Faults of recordings: tone, level, holes in the spectrum, hum, crackle, and noise alone."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from open_miipher.base.errors import UserError
from open_miipher.degradation.base import Context, Stage, Trace, check_range, power
from open_miipher.degradation.noise import active_power, draw_noise

_LOWEST_HZ = 60.0  # below it an equaliser's curve is flat
_HOLE_WINDOW_SECONDS = 0.04


class Equaliser(Stage):
    """Changes the tone by a smooth drawn curve of gain over frequency; the power stays."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            gain_db: of each point of the curve.
            points: how many, evenly spaced in log frequency.
        """

        gain_db: tuple[float, float] = (-8.0, 8.0)
        points: int = 6

    def __init__(self, context: Context, config: Config) -> None:
        check_range("equaliser gain_db", config.gain_db, -60, 60)
        if config.points < 2:
            raise UserError(f"equaliser points={config.points} must be at least 2")
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Filter without delay by a drawn curve."""
        gains = rng.uniform(*self.config.gain_db, self.config.points)
        trace.drawn.append({"name": "equaliser", "gain_db": gains.round(2).tolist()})
        length = fft.next_fast_len(len(waveform) + self.sample_rate // 10, real=True)
        frequencies = fft.rfftfreq(length, 1 / self.sample_rate)
        places = np.geomspace(_LOWEST_HZ, self.sample_rate / 2, self.config.points)
        curve = np.interp(np.log(np.maximum(frequencies, 1.0)), np.log(places), gains)
        spectrum = fft.rfft(waveform, length) * (10 ** (curve / 20)).astype(np.float32)
        return _with_power(fft.irfft(spectrum, length)[: len(waveform)], power(waveform))


class SpectralHoles(Stage):
    """Takes bands out of the spectrum for a while, as codecs of low rates do."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            per_second: expected holes a second.
            width_hz: of a hole.
            seconds: how long it lasts.
        """

        per_second: float = 10.0
        width_hz: tuple[float, float] = (200.0, 2000.0)
        seconds: tuple[float, float] = (0.02, 0.2)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("spectral_holes width_hz", config.width_hz, 1, context.sample_rate / 2)
        check_range("spectral_holes seconds", config.seconds, 0.001, 60)
        if not 0 < config.per_second <= 1000:
            raise UserError(f"spectral_holes per_second={config.per_second}: choose 0 … 1000")
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Zero drawn rectangles of a short-time spectrum."""
        config, hop = self.config, round(_HOLE_WINDOW_SECONDS * self.sample_rate / 2)
        num_hops = -(-len(waveform) // hop)
        padded = np.zeros((num_hops + 2) * hop, np.float32)
        padded[hop : hop + len(waveform)] = waveform
        window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)).astype(np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * window
        spectra = fft.rfft(frames, axis=1)
        count = int(rng.poisson(config.per_second * len(waveform) / self.sample_rate))
        hz_a_bin = self.sample_rate / (2 * hop)
        for _ in range(count):
            seconds, width = rng.uniform(*config.seconds), rng.uniform(*config.width_hz)
            low = rng.uniform(0, self.sample_rate / 2 - width) / hz_a_bin
            start = rng.uniform(0, len(spectra))
            last = start + seconds * self.sample_rate / hop
            spectra[int(start) : int(last) + 1, int(low) : int(low + width / hz_a_bin) + 1] = 0
        trace.drawn.append({"name": "spectral_holes", "count": count})
        halves = (fft.irfft(spectra, axis=1) * window).reshape(-1, 2, hop)
        return (halves[1:, 0] + halves[:-1, 1]).reshape(-1)[: len(waveform)]


class LevelChanges(Stage):
    """Lets the gain wander, as automatic gain control and moving speakers do; the power stays."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            gain_db: of each point of the curve.
            seconds: between points; gains in dB are interpolated.
        """

        gain_db: tuple[float, float] = (-8.0, 0.0)
        seconds: float = 0.5

    def __init__(self, context: Context, config: Config) -> None:
        check_range("level_changes gain_db", config.gain_db, -60, 60)
        check_range("level_changes seconds", (config.seconds, config.seconds), 0.01, 60)
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Multiply by a drawn curve."""
        step = self.config.seconds * self.sample_rate
        gains = rng.uniform(*self.config.gain_db, int(len(waveform) / step) + 2)
        trace.drawn.append({"name": "level_changes", "gain_db": gains.round(2).tolist()})
        curve = np.interp(np.arange(len(waveform)) / step, np.arange(len(gains)), gains)
        changed = waveform * (10 ** (curve / 20)).astype(np.float32)
        return _with_power(changed, power(waveform))


class Hum(Stage):
    """Adds the mains' hum and its harmonics, so that active speech stands `snr_db` above it."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            snr_db: power of active speech over the hum's, in dB.
            mains_hz: fundamentals, one of which is taken.
            harmonics: how many at most, each weaker than the one before on average.
        """

        snr_db: tuple[float, float] = (0.0, 30.0)
        mains_hz: tuple[float, ...] = (50.0, 60.0)
        harmonics: int = 20

    def __init__(self, context: Context, config: Config) -> None:
        check_range("hum snr_db", config.snr_db, -100, 200)
        highest = max(config.mains_hz, default=0.0) * config.harmonics
        if config.harmonics < 1 or min(config.mains_hz, default=0.0) <= 0:
            raise UserError("hum needs mains_hz above 0 and at least 1 of harmonics")
        if highest >= context.sample_rate / 2:
            raise UserError(f"hum goes up to {highest:g} Hz; give fewer harmonics")
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Add a drawn hum."""
        snr_db, mains = rng.uniform(*self.config.snr_db), float(rng.choice(self.config.mains_hz))
        trace.drawn.append({"name": "hum", "snr_db": snr_db, "mains_hz": mains})
        numbers = np.arange(1, self.config.harmonics + 1)
        heights = rng.exponential(1.0, len(numbers)) / numbers
        phases = rng.uniform(0, 2 * np.pi, len(numbers))
        turns = 2 * np.pi * mains / self.sample_rate * np.arange(len(waveform))
        hum = sum(
            height * np.cos(number * turns + phase)
            for number, height, phase in zip(numbers, heights, phases, strict=True)
        )
        wanted = active_power(waveform, self.sample_rate) * 10 ** (-snr_db / 10)
        return waveform + _with_power(np.asarray(hum, np.float32), wanted)


class Crackle(Stage):
    """Adds clicks, short bursts of noise, at the pace of a worn record or a bad cable."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            per_second: clicks a second.
            seconds: in which a click decays by a factor e.
            height_db: peak of a click over the RMS of active speech.
        """

        per_second: tuple[float, float] = (1.0, 30.0)
        seconds: tuple[float, float] = (0.0001, 0.002)
        height_db: tuple[float, float] = (-10.0, 15.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("crackle per_second", config.per_second, 0, 1000)
        check_range("crackle seconds", config.seconds, 0.00001, 0.1)
        check_range("crackle height_db", config.height_db, -100, 100)
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Add drawn clicks."""
        config, damaged = self.config, waveform.copy()
        pace = rng.uniform(*config.per_second)
        count = int(rng.poisson(pace * len(waveform) / self.sample_rate))
        level = np.sqrt(active_power(waveform, self.sample_rate))
        for start in rng.integers(len(waveform), size=count):
            decay = rng.uniform(*config.seconds) * self.sample_rate
            height = level * 10 ** (rng.uniform(*config.height_db) / 20)
            click = rng.uniform(-1, 1, int(6 * decay) + 1) * np.exp(
                -np.arange(int(6 * decay) + 1) / decay
            )
            click = click[: len(waveform) - start] / np.abs(click).max()
            damaged[start : start + len(click)] += (height * click).astype(np.float32)
        trace.drawn.append({"name": "crackle", "count": count})
        return damaged


class NoiseAlone(Stage):
    """Puts noise in the place of the speech, and silence in that of the target."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            level_db: power of the noise over that of active speech, in dB.
            colour: as `noise`'s, where there are no recordings.
        """

        level_db: tuple[float, float] = (-30.0, 0.0)
        colour: tuple[float, float] = (0.0, 2.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("noise_alone level_db", config.level_db, -100, 100)
        check_range("noise_alone colour", config.colour, -4, 4)
        self.sample_rate, self.source, self.config = context.sample_rate, context.noise, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Give drawn noise alone."""
        level_db = rng.uniform(*self.config.level_db)
        noise, description = draw_noise(
            rng, len(waveform), self.sample_rate, self.source, self.config.colour
        )
        trace.drawn.append({"name": "noise_alone", "level_db": level_db, "source": description})
        trace.target = np.zeros_like(waveform)
        return _with_power(noise, active_power(waveform, self.sample_rate) * 10 ** (level_db / 10))


def _with_power(waveform: np.ndarray, wanted: float) -> np.ndarray:
    """Scale a waveform (samples,) to a mean square; a silent one stays as it is."""
    own = power(waveform)
    gain = np.sqrt(wanted / own) if own > 0 else 1.0
    return (waveform * np.float32(gain)).astype(np.float32)
