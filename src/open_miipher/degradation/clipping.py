"""Overdriven inputs: soft and hard clipping relative to the waveform's own peak."""

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
