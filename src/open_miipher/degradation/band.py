"""Lost bands: filters, and a detour through a lower sample rate."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.degradation.base import Context, Stage, Trace, check_range
from open_miipher.degradation.filtering import convolve, design_filter

_FILTER_SECONDS = 0.005  # half the filter: the transition is about 350 Hz wide
LOW_CUT_SECONDS = 0.05
"""Half the low cut's filter, so that its transition is about 33 Hz wide."""


def low_cut(waveform: np.ndarray, sample_rate: int, cutoff: float) -> np.ndarray:
    """Take out what lies below a cutoff, without delay; zeros lie outside the waveform.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz.
        cutoff: -6 dB point in Hz; -50 dB are reached 20 Hz below.

    Returns:
        A new array (samples,) float32.
    """
    half = round(LOW_CUT_SECONDS * sample_rate)
    return convolve(waveform, _low_cut_kernel(half, sample_rate, cutoff), half)


@lru_cache(maxsize=1)
def _low_cut_kernel(half: int, sample_rate: int, cutoff: float) -> np.ndarray:
    return design_filter(2 * half + 1, cutoff, sample_rate, high_pass=True)


class LowPass(Stage):
    """Takes out what lies above a cutoff, by a symmetric filter, so without delay."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            cutoff: -6 dB point in Hz.
        """

        cutoff: tuple[float, float] = (2000.0, 7000.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("low_pass cutoff", config.cutoff, 50, 0.49 * context.sample_rate)
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Filter at a drawn cutoff."""
        cutoff = rng.uniform(*self.config.cutoff)
        trace.drawn.append({"name": "low_pass", "cutoff": cutoff})
        half = round(_FILTER_SECONDS * self.sample_rate)
        kernel = design_filter(2 * half + 1, cutoff, self.sample_rate)
        return convolve(waveform, kernel, half)


class BandLimit(Stage):
    """Resamples to a lower rate and back, as recordings of mixed origin have been."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            rates: sample rates in Hz; those not below the waveform's own are passed over.
        """

        rates: list[int] = field(default_factory=lambda: [8000, 11025, 16000, 22050])

    def __init__(self, context: Context, config: Config) -> None:
        self.sample_rate = context.sample_rate
        self.rates = [rate for rate in config.rates if 0 < rate < self.sample_rate]
        if not self.rates:
            raise UserError(f"band_limit rates={config.rates} has none below {self.sample_rate} Hz")

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Go through a drawn rate."""
        rate = int(rng.choice(self.rates))
        trace.drawn.append({"name": "band_limit", "rate": rate})
        narrow = resample(waveform, self.sample_rate, rate)
        wide = resample(narrow, rate, self.sample_rate)
        # Up again from a rounded length may end some samples early or late.
        return np.pad(wide, (0, max(0, len(waveform) - len(wide))))[: len(waveform)]
