"""Background noise at an asked signal-to-noise ratio."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from open_miipher.degradation.base import Context, NoiseSource, Stage, Trace, check_range, power

_FRAME_SECONDS = 0.02
_ACTIVE_RANGE_DB = 30.0
_LOWEST_HZ = 20.0


class BackgroundNoise(Stage):
    """Adds noise so that active speech stands `snr_db` above it.

    The speech's power is its mean over active frames (`active_power`), so that pauses in a crop
    do not make its noise weaker; the noise's power is its mean over the crop.
    """

    @dataclass
    class Config:
        """Ranges to draw from.

        Attributes:
            snr_db: signal-to-noise ratio in dB.
            colour: without recordings, noise with power ~ 1 / f^colour is made: 0 is white,
                1 pink, 2 brown.
        """

        snr_db: tuple[float, float] = (5.0, 30.0)
        colour: tuple[float, float] = (0.0, 2.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("noise snr_db", config.snr_db, -100, 200)
        check_range("noise colour", config.colour, -4, 4)
        self.sample_rate, self.source, self.config = context.sample_rate, context.noise, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Add drawn noise."""
        snr_db = rng.uniform(*self.config.snr_db)
        noise, description = draw_noise(
            rng, len(waveform), self.sample_rate, self.source, self.config.colour
        )
        noise_power = power(noise)
        if noise_power == 0:
            trace.failures.append(f"noise: {description} is silent")
            return waveform.copy()
        trace.drawn.append({"name": "noise", "snr_db": snr_db, "source": description})
        speech_power = active_power(waveform, self.sample_rate)
        gain = np.sqrt(speech_power / noise_power) * 10.0 ** (-snr_db / 20.0)
        return waveform + np.float32(gain) * noise


def active_power(waveform: np.ndarray, sample_rate: int) -> float:
    """Mean square over the 20 ms frames that lie at most 30 dB below the loudest.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz.

    Returns:
        The mean square of the active part; 0 for silence.
    """
    frame = round(_FRAME_SECONDS * sample_rate)
    starts = np.arange(0, len(waveform), frame)
    energies = np.add.reduceat(np.square(waveform), starts, dtype=np.float64)
    lengths = np.diff(starts, append=len(waveform))
    powers = energies / lengths
    active = powers >= powers.max() * 10.0 ** (-_ACTIVE_RANGE_DB / 10.0)
    return float(energies[active].sum() / lengths[active].sum())


def draw_noise(
    rng: np.random.Generator,
    num_samples: int,
    sample_rate: int,
    source: NoiseSource | None,
    colour: tuple[float, float],
) -> tuple[np.ndarray, str]:
    """Draw noise from recordings, or make it if there are none.

    Args:
        rng: source of randomness.
        num_samples: how many.
        sample_rate: in Hz.
        source: the recordings; None: the noise is made.
        colour: range of the exponent of made noise (see `coloured_noise`).

    Returns:
        (num_samples,) float32, and a description of it.
    """
    if source is not None:
        return source(rng, num_samples)
    exponent = rng.uniform(*colour)
    return coloured_noise(rng, num_samples, sample_rate, exponent), f"colour {exponent:.3f}"


def coloured_noise(
    rng: np.random.Generator, num_samples: int, sample_rate: int, colour: float
) -> np.ndarray:
    """Make Gaussian noise with a power spectrum ~ 1 / f^colour above 20 Hz, flat below.

    Args:
        rng: source of randomness.
        num_samples: length.
        sample_rate: in Hz.
        colour: 0 white, 1 pink, 2 brown.

    Returns:
        (samples,) float32 of unit expected power.
    """
    length = fft.next_fast_len(num_samples, real=True)
    frequencies = fft.rfftfreq(length, 1.0 / sample_rate).astype(np.float32)
    shape = np.maximum(frequencies, _LOWEST_HZ) ** np.float32(-colour / 2.0)
    shape /= np.sqrt(np.mean(np.square(shape)))
    bins = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    noise = fft.irfft(bins * shape, length)[:num_samples]
    return np.float32(np.sqrt(length / 2.0)) * noise
