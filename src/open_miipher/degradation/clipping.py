"""Overdriven inputs: clipping relative to the waveform's own peak, or at its quantiles."""

from dataclasses import dataclass

import numpy as np

from open_miipher.degradation.base import Context, Stage, Trace, check_range


class SoftClipping(Stage):
    """Bends the waveform by tanh at a gain over its peak; quiet parts keep their level."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            gain: times the peak before tanh.
        """

        gain: tuple[float, float] = (1.2, 2.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("soft_clipping gain", config.gain, 0.01, 1000)
        self.config = config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Bend the peaks."""
        gain = rng.uniform(*self.config.gain)
        trace.drawn.append({"name": "soft_clipping", "gain": gain})
        limit = np.float32(np.abs(waveform).max() / gain)
        return limit * np.tanh(waveform / limit) if limit > 0 else waveform.copy()


class HardClipping(Stage):
    """Cuts the waveform at its peak divided by a gain; the rest keeps its level."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            gain: the peak over the height at which it is cut.
        """

        gain: tuple[float, float] = (1.2, 2.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("hard_clipping gain", config.gain, 1, 1000)
        self.config = config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Cut the peaks."""
        gain = rng.uniform(*self.config.gain)
        trace.drawn.append({"name": "hard_clipping", "gain": gain})
        limit = np.float32(np.abs(waveform).max() / gain)
        return np.clip(waveform, -limit, limit)


class QuantileClipping(Stage):
    """Cuts the waveform at two of its quantiles, each drawn by itself; the rest keeps its level."""

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            lower: share of the samples below the lower bound.
            upper: share of the samples below the upper bound.
        """

        lower: tuple[float, float] = (0.0, 0.1)
        upper: tuple[float, float] = (0.9, 1.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("quantile_clipping lower", config.lower, 0, 0.5)
        check_range("quantile_clipping upper", config.upper, 0.5, 1)
        self.config = config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Cut at two drawn quantiles."""
        lower, upper = rng.uniform(*self.config.lower), rng.uniform(*self.config.upper)
        trace.drawn.append({"name": "quantile_clipping", "lower": lower, "upper": upper})
        low, high = (round(share * (len(waveform) - 1)) for share in (lower, upper))
        ordered = np.partition(waveform, (low, high))  # a fraction of what sorting takes
        return np.clip(waveform, ordered[low], ordered[high])
