"""Speech-like signals and a way to run one stage."""

import numpy as np
import pytest
from scipy.signal import firwin, oaconvolve

from open_miipher.degradation import Stage, Trace


@pytest.fixture
def run():
    """Apply a stage with a seed; gives the damaged waveform and the trace."""

    def apply(stage: Stage, waveform: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Trace]:
        trace = Trace(target=waveform)
        return stage(waveform, np.random.default_rng(seed), trace), trace

    return apply


@pytest.fixture
def speech_like():
    """Make noise between 300 and 1500 Hz in bursts with pauses between them, peak 0.5."""

    def make(sample_rate: int, seconds: float = 1.0) -> np.ndarray:
        rng = np.random.default_rng(5)
        num_samples = round(seconds * sample_rate) + 123
        kernel = firwin(sample_rate // 50 + 1, [300, 1500], pass_zero=False, fs=sample_rate)
        noise = oaconvolve(rng.standard_normal(num_samples), kernel, mode="same")
        noise *= np.maximum(0, np.sin(2 * np.pi * 3 * np.arange(num_samples) / sample_rate))
        return (0.5 * noise / np.abs(noise).max()).astype(np.float32)

    return make
