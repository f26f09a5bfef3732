"""Rooms: convolution with an impulse response, aligned with the direct path."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from open_miipher.degradation.base import Context, Stage, Trace, check_range, power
from open_miipher.degradation.filtering import convolve


class Reverb(Stage):
    """Convolves with a room's impulse response.

    The direct path's delay is taken out, so that the result stays aligned, and the power is put
    back to the input's.
    """

    @dataclass
    class Config:
        """What to draw, and what the clean target becomes.

        Attributes:
            target: `dry` leaves the target as it is; `direct` makes it what arrives within
                `direct_seconds` of the direct path, as loud as the target was.
            direct_seconds: the longer, the more early reflections colour that target.
            seconds: an impulse response is cut so long after its direct path.
            rt60: without recordings, exponentially decaying noise is taken for a room (Polack's
                model); its decay by 60 dB takes so many seconds.
            direct_to_reverb_db: without recordings, power of the direct path over the rest's.
        """

        target: Literal["dry", "direct"] = "dry"
        direct_seconds: float = 0.0025
        seconds: float = 1.0
        rt60: tuple[float, float] = (0.2, 0.5)
        direct_to_reverb_db: tuple[float, float] = (-6.0, 12.0)

    def __init__(self, context: Context, config: Config) -> None:
        check_range("reverb rt60", config.rt60, 0.01, 20)
        check_range("reverb direct_to_reverb_db", config.direct_to_reverb_db, -60, 60)
        check_range("reverb seconds", (config.seconds, config.seconds), 0.01, 20)
        check_range("reverb direct_seconds", (config.direct_seconds, config.direct_seconds), 0, 0.1)
        self.sample_rate, self.config = context.sample_rate, config
        self.source = context.impulse_responses

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Convolve with a drawn impulse response."""
        if self.source is None:
            rt60 = rng.uniform(*self.config.rt60)
            ratio_db = rng.uniform(*self.config.direct_to_reverb_db)
            response = decaying_noise(rng, self.sample_rate, rt60, ratio_db)
            description = f"rt60 {rt60:.3f} s, direct to reverb {ratio_db:.1f} dB"
        else:
            response, description = self.source(rng)
        if not response.any():
            trace.failures.append(f"reverb: {description} is silent")
            return waveform.copy()
        trace.drawn.append({"name": "reverb", "source": description})
        delay = direct_path(response, self.sample_rate)
        response = response[: delay + 1 + round(self.config.seconds * self.sample_rate)]
        if self.config.target == "direct":
            near = round(self.config.direct_seconds * self.sample_rate)
            start = max(0, delay - near)
            direct = convolve(trace.target, response[start : delay + near + 1], delay - start)
            # At its own level a far voice would come out of the model as soft as the room is loud.
            trace.target = _as_loud_as(trace.target, direct)
        return _as_loud_as(waveform, convolve(waveform, response, delay))


def _as_loud_as(reference: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Bring a waveform to another's power; silence stays."""
    loudness = power(waveform)
    gain = np.float32(np.sqrt(power(reference) / loudness) if loudness > 0 else 1.0)
    return gain * waveform


def direct_path(response: np.ndarray, sample_rate: int) -> int:
    """Find the sample at which the direct path arrives.

    It is the first peak of at least half the greatest height: reflections that meet can be
    stronger than the direct path, but seldom by more.

    Args:
        response: impulse response (samples,).
        sample_rate: in Hz.
    """
    height = np.abs(response)
    first = int(np.argmax(height >= 0.5 * height.max()))
    return first + int(np.argmax(height[first : first + max(1, sample_rate // 2000)]))


def decaying_noise(
    rng: np.random.Generator, sample_rate: int, rt60: float, ratio_db: float
) -> np.ndarray:
    """Make an impulse response: a direct path, then exponentially decaying noise.

    Args:
        rng: source of randomness.
        sample_rate: in Hz.
        rt60: seconds of decay by 60 dB.
        ratio_db: power of the direct path over that of the rest.

    Returns:
        (samples,) float32, its direct path at sample 0, as long as it takes to decay by 60 dB.
    """
    length = 1 + round(rt60 * sample_rate)
    decay = np.exp(-3.0 * np.log(10.0) * np.arange(length) / (rt60 * sample_rate))
    response = rng.standard_normal(length, dtype=np.float32) * decay.astype(np.float32)
    response[0] = 0.0
    response[0] = np.sqrt(np.square(response).sum()) * 10.0 ** (ratio_db / 20.0) or 1.0
    return response
