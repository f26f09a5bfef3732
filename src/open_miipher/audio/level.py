"""Put the input's level back after a vocoder whose output comes at a fixed peak.

Every chunk gets one gain, fitted on the frames in which somebody speaks: there the level of the
restored speech is known. A chunk without speech takes its gain from its neighbours, never louder
than the input was, so that a pause full of noise does not come back as loud garbage. No gain is
derived from another one through the overlap of two chunks, so errors do not add up. What two chunks
then disagree on where they overlap, each gives way to by half, on a slope from its middle.
"""

import math

import numpy as np

FRAME_SECONDS = 0.04
"""Levels are compared over frames of about this length: a syllable is longer."""

ACTIVE_ABOVE_FLOOR = 10 ** (9 / 10)
"""Speech stands out by at least 9 dB from the chunk's noise floor …"""

ACTIVE_BELOW_LOUDEST = 10 ** (-30 / 10)
"""… and is at most 30 dB below the chunk's loudest frame."""

FLOOR_PERCENTILE = 10
"""The noise floor is the level that a tenth of a chunk's frames (the pauses) stay under."""


def frame_power(waveform: np.ndarray, frame_length: int) -> np.ndarray:
    """Return the mean square of each frame.

    Args:
        waveform: (channels, samples).
        frame_length: samples.

    Returns:
        (channels, ceil(samples / frame_length)) float64; the last frame may be a shorter one.
    """
    starts = np.arange(0, waveform.shape[1], frame_length)
    lengths = np.diff(starts, append=waveform.shape[1])
    return np.add.reduceat(np.square(waveform, dtype=np.float64), starts, axis=1) / lengths


def noise_floor(power: np.ndarray) -> float:
    """Return the noise floor of a chunk's frames (mean squares), at least one."""
    return float(np.percentile(power, FLOOR_PERCENTILE))


def active_frames(power: np.ndarray) -> np.ndarray:
    """Tell which frames (mean squares) of a chunk hold speech: (frames,) bool.

    Steady sound (noise, a hum, a lone tone) stands out from no floor and counts as none.
    """
    least = max(ACTIVE_ABOVE_FLOOR * noise_floor(power), ACTIVE_BELOW_LOUDEST * power.max())
    return (power >= least) & (power > 0)


def fit_gain(reference: np.ndarray, restored: np.ndarray) -> float | None:
    """Fit the gain that gives restored speech the level of the speech in the input.

    The noise under the speech is taken off the input's power, since it is gone in the output.

    Args:
        reference: (frames,) mean squares of the input.
        restored: (frames,) mean squares of the output, same frames.

    Returns:
        The gain (amplitude), or None if nobody speaks in the input, or nothing came back.
    """
    active = active_frames(reference)
    heard = float(restored[active].sum())
    if not active.any() or heard <= 0:
        return None
    speech = float((reference[active] - noise_floor(reference)).sum())
    return math.sqrt(speech / heard)


def own_level_gain(reference: np.ndarray, restored: np.ndarray) -> float:
    """Return the gain that brings the whole output to the level of the whole input.

    Args and units as in `fit_gain`. An output of nothing but zeros gets 1.
    """
    power = float(restored.sum())
    return math.sqrt(float(reference.sum()) / power) if power > 0 else 1.0


MOST_DISAGREEMENT = math.log(4)
"""12 dB: chunks that differ by more are not brought together beyond it; one of them has failed."""


def disagreement(before: np.ndarray, after: np.ndarray, active: np.ndarray) -> float:
    """Return by how much two chunks differ in level where both speak: ln of the amplitude ratio.

    Args:
        before: (frames,) mean squares of what the earlier chunk puts there.
        after: of the later chunk, same frames.
        active: (frames,) bool, where somebody speaks.

    Returns:
        Above 0 if the earlier is louder; 0 if nobody speaks, or one of them is silent there; at
        most MOST_DISAGREEMENT either way.
    """
    powers = float(before[active].sum()), float(after[active].sum())
    if min(powers) <= 0:
        return 0.0
    difference = 0.5 * math.log(powers[0] / powers[1])
    return min(max(difference, -MOST_DISAGREEMENT), MOST_DISAGREEMENT)


def slope(num_samples: int, seams: tuple[int, int], logs: tuple[float, float]) -> np.ndarray:
    """Return gains whose logarithm falls, in a straight line, to 0 from each seam to the middle.

    Args:
        num_samples: of the chunk.
        seams: the sample of the first seam, and that of the second; beyond them it is level.
        logs: ln of the gain at each.

    Returns:
        (samples,) float32.
    """
    if not any(logs):
        return np.ones(num_samples, np.float32)
    places = [seams[0], (seams[0] + seams[1]) / 2, seams[1]]
    line = np.interp(np.arange(num_samples), places, [logs[0], 0.0, logs[1]])
    return np.exp(line.astype(np.float32))


class GainTrack:
    """Decides the gains of one channel's chunks, in order, with a bounded look ahead.

    A chunk without a gain of its own lies on the straight line, in dB, between the gains of the
    nearest chunks that have one; with one such neighbour it takes that gain, with none its limit.
    It never gets more than its limit. To stay in bounded memory, a chunk waits for at most
    `look_ahead` others; then the gain before it is kept.

    Args:
        look_ahead: chunks.
    """

    def __init__(self, look_ahead: int) -> None:
        self._look_ahead = look_ahead
        self._previous: float | None = None
        self._limits: list[float] = []  # of the chunks that wait

    def push(self, gain: float | None, limit: float) -> list[float]:
        """Add the next chunk.

        Args:
            gain: its own, or None.
            limit: the most it may get if it has none.

        Returns:
            Gains of the chunks, in order, that are decided now.
        """
        if gain is not None:
            decided = [*self._between(self._previous, gain), gain]
            self._previous = gain
            return decided
        self._limits.append(limit)
        if len(self._limits) <= self._look_ahead:
            return []
        oldest = self._limits.pop(0)
        return [oldest if self._previous is None else min(self._previous, oldest)]

    def finish(self) -> list[float]:
        """Return the gains of the chunks that still wait; no other follows."""
        return self._between(self._previous, self._previous)

    def _between(self, before: float | None, after: float | None) -> list[float]:
        limits, self._limits = self._limits, []
        known = [math.log(max(g, 1e-12)) for g in (before, after) if g is not None]
        if not known:
            return limits
        share = np.arange(1, len(limits) + 1) / (len(limits) + 1)
        line = np.exp(known[0] + share * (known[-1] - known[0]))
        return [min(float(gain), limit) for gain, limit in zip(line, limits, strict=True)]
