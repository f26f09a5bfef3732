"""Levels: peaks, and the input's level after a vocoder whose output always has the same peak.

After the vocoder, every chunk gets one gain. It is fitted on the frames in which somebody speaks,
because the level of the restored speech is known there. A chunk without speech takes its gain from
its neighbours, but it never gets louder than the input, so that a noisy pause does not become loud
garbage. No gain is derived from another one through the overlap of two chunks, so errors do not add
up. If two chunks still differ in level where they overlap, each changes by half of the difference:
its gain follows a slope from the middle of the chunk to the overlap.

A constant offset, hum and rumble are no speech, and a vocoder does not give them back: levels are
compared without them (`PowerWithoutRumble`).
"""

import math
from collections import deque
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

_LOUDEST_FLOAT = 32.0  # no recording goes 30 dB beyond full scale; int16's quietest speech does

SILENCE = 1e-6
"""Peak below which nothing was recorded: scaling that up gives noise, or overflows."""

FRAME_SECONDS = 0.04
"""Levels are compared over frames of about this length, which is shorter than a syllable."""

ACTIVE_ABOVE_FLOOR = 10 ** (9 / 10)
"""A frame with speech is at least 9 dB louder than the chunk's noise floor …"""

ACTIVE_BELOW_LOUDEST = 10 ** (-30 / 10)
"""… and at most 30 dB below the chunk's loudest frame."""

FLOOR_PERCENTILE = 10
"""The noise floor is this percentile of the power of a chunk's frames: the level of its pauses."""


SPEECH_RMS = 10 ** (-26 / 20)
"""Models are given speech at this level of its active frames: -26 dB of full scale, the nominal
level of ITU-T P.56, which the crops of training have around them."""

_SHORT_SECONDS = 0.02
_SPEECH_FROM_HZ = 200.0
_MOST_ABOVE_MEDIAN = 10 ** (9 / 10)  # of active frames; what is louder is no speech

RUMBLE = 100.0, 150.0
"""Hz: levels leave out what lies below the first, and all of what lies above the second counts."""

_SLOW_RATE = 800  # Hz: rumble and its images are far apart there
_SMOOTH_STEPS = 9  # odd
_SMOOTH_SHAPE = 8.0  # of a Kaiser window: 80 dB, so that hum 40 dB above speech is taken off
_RUMBLE_TAPS = 48  # to either side: 60 ms

_ROUNDING = 1e-12  # of float32 means, squared; 16 bits have a million times as much noise
_ONES = np.ones(1024, np.float32)
_ROW = 8192  # samples: numpy multiplies shorter rows at half the speed


def peak_of(waveform: np.ndarray) -> float:
    """Return the peak of a waveform (samples,)."""
    return float(np.abs(waveform).max())


def at_peak(waveform: np.ndarray, peak: float) -> np.ndarray:
    """Scale a waveform (samples,) to a peak; one that is as good as silent becomes silence."""
    loudest = np.abs(waveform).max()
    if loudest < SILENCE:
        return np.zeros_like(waveform)
    return waveform * np.float32(peak / loudest)


class PowerWithoutRumble:
    """The power of a signal over time, without a constant offset, hum and rumble.

    These are found at a rate of about `_SLOW_RATE`, where that costs little. The signal without
    them is not made: the energy of each step at that rate follows from what found them, as
    |x - r|² = |x|² - r · (2 x - r).

    Args:
        waveform: (channels, samples) float32.
        num_samples: of the signal; what follows is padding.
        sample_rate: Hz.
    """

    def __init__(self, waveform: np.ndarray, num_samples: int, sample_rate: int) -> None:
        num_channels, self._num_samples = waveform.shape
        self._step = step = max(1, sample_rate // _SLOW_RATE)
        num_steps = -(-self._num_samples // step)
        signal = waveform[:, :num_samples]
        samples = np.empty((num_channels, num_steps * step), np.float32)
        # The offset itself first: at its ends it would give a click.
        np.subtract(signal, _mean(signal)[:, None], out=samples[:, :num_samples])
        samples[:, num_samples:] = 0
        steps = samples.reshape(num_channels, num_steps, step)
        energies = np.einsum("csk,csk->cs", steps, steps) - _rumble_energies(steps, sample_rate)
        self._energies = np.zeros((num_channels, num_steps + 1))  # up to the end of each step
        energies.cumsum(axis=1, out=self._energies[:, 1:])

    def of_frames(self, frame_length: int, start: int = 0) -> np.ndarray:
        """Return the mean square of each frame.

        Args:
            frame_length: samples; a frame that is no number of whole steps has a share of the step
                at each of its ends.
            start: the first frame's first sample.

        Returns:
            (channels, ceil((samples - start) / frame_length)) float64; the last frame may be
            shorter.
        """
        ends = np.append(np.arange(start, self._num_samples, frame_length), self._num_samples)
        places = self._step * np.arange(self._energies.shape[1])
        until = np.stack([np.interp(ends, places, row) for row in self._energies])
        return np.diff(until, axis=1).clip(min=0.0) / np.diff(ends)  # rounded, it may be below 0


def _rumble_energies(steps: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return by how much the energy of each step falls as hum and rumble are taken off.

    Args:
        steps: (channels, steps, samples) float32, a signal.
        sample_rate: Hz.

    Returns:
        (channels, steps) float32.
    """
    num_channels, num_steps, step = steps.shape
    smooth, rumble, products = _rumble_filters(sample_rate, step)
    reach = len(smooth) // 2  # steps to either side that `smooth` sees
    parts = smooth @ steps.transpose(0, 2, 1)
    edge = reach + len(rumble) // 2
    slow = np.zeros((num_channels, num_steps + 2 * edge), np.float32)
    for k in range(len(smooth)):
        slow[:, edge + reach - k :][:, :num_steps] += parts[:, k]
    found = np.stack([np.convolve(row, rumble, "valid") for row in slow])
    # The rumble in a step is the sum of these, each times a row of `smooth`, times `step`.
    around = [found[:, 2 * reach - k :][:, :num_steps] for k in range(len(smooth))]
    weights = np.stack(around, axis=1)
    energies: np.ndarray = (weights * (2 * step * parts - products @ weights)).sum(axis=1)
    return energies


@lru_cache
def _rumble_filters(sample_rate: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what goes to every `step`th sample and back, and what finds the rumble there.

    Returns:
        (parts, step) float32, a low-pass around the middle of a step; (taps,) float32, which passes
        what lies below `RUMBLE`; and (parts, parts) float32, the products of the first's rows, as
        they give samples back.
    """
    num_taps = _SMOOTH_STEPS * step
    times = (np.arange(num_taps) - (num_taps - 1) / 2) / sample_rate
    smooth = np.sinc(_SLOW_RATE * times) * np.kaiser(num_taps, _SMOOTH_SHAPE)
    low, high = RUMBLE
    frequencies = np.fft.rfftfreq(4096, step / sample_rate)
    place = np.clip((frequencies - low) / (high - low), 0.0, 1.0)
    taps = np.arange(-_RUMBLE_TAPS, _RUMBLE_TAPS + 1)
    rumble = np.fft.irfft(np.square(np.cos(np.pi / 2 * place)))[taps]
    rumble *= np.hanning(len(taps) + 2)[1:-1]
    parts = (smooth / smooth.sum()).reshape(_SMOOTH_STEPS, step)
    products = step**2 * parts @ parts.T
    return parts.astype(np.float32), rumble.astype(np.float32), products.astype(np.float32)


def moments(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the sum of squares of each channel, (channels,) float64.

    The mean is taken off before it is squared, as a constant offset can be much louder than the
    rest; so float32 does.

    Args:
        waveform: (channels, samples) float32.
    """
    size, mean = waveform.shape[1], _mean(waveform)
    frames, rest = _in_frames(waveform - mean[:, None])
    squares = np.vecdot(frames, frames).sum(axis=1, dtype=np.float64) + np.vecdot(rest, rest)
    middle = mean.astype(np.float64)
    return size * middle, squares + size * middle**2


def variances(sums: np.ndarray, squares: np.ndarray, num_samples: int) -> np.ndarray:
    """Return the mean square about the mean of each channel, by its `moments`: (channels,).

    A mere offset has none: what rounding leaves of it is no sound.

    Args:
        sums: (channels,), of all blocks of a signal.
        squares: the same.
        num_samples: of all blocks, at least 1.
    """
    mean, square = sums / num_samples, squares / num_samples
    found = square - mean**2
    return np.where(found > _ROUNDING * square, found, 0.0)


def _mean(waveform: np.ndarray) -> np.ndarray:
    """Return the mean of each channel of (channels, samples), (channels,) float32; 0 of none."""
    frames, rest = _in_frames(waveform)
    sums = np.vecdot(frames, _ONES).sum(axis=1, dtype=np.float64) + rest.sum(axis=1)
    return (sums / max(1, waveform.shape[1])).astype(np.float32)


def _in_frames(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return views: (channels, frames, samples), and (channels, samples) that are left.

    Frames are short enough to be summed in float32, and by one thread: the result is always one.
    """
    end = waveform.shape[1] // len(_ONES) * len(_ONES)
    return waveform[:, :end].reshape(len(waveform), -1, len(_ONES)), waveform[:, end:]


def noise_floor(power: np.ndarray) -> float:
    """Return the noise floor of one or more frames of a chunk (mean squares)."""
    place = FLOOR_PERCENTILE / 100 * (len(power) - 1)  # np.percentile takes five times as long
    return float(np.interp(place, np.arange(len(power)), np.sort(power)))


def active_frames(power: np.ndarray) -> np.ndarray:
    """Return which frames (mean squares) of a chunk contain speech: (frames,) bool.

    A steady sound (noise, a hum, a single tone) is its own noise floor, so it is not speech.
    """
    least = max(ACTIVE_ABOVE_FLOOR * noise_floor(power), ACTIVE_BELOW_LOUDEST * power.max())
    return (power >= least) & (power > 0)


def speech_gains(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Measure the gains that bring the speech of a signal to `SPEECH_RMS`.

    A signal without speech is brought there as a whole; near silence is not scaled up beyond what
    an RMS of `SILENCE` would be. Hum, rumble and a constant offset are no level, and neither clicks
    nor a slammed door raise it by much.

    Args:
        blocks: each (channels, n) float32, at least one sample together.
        sample_rate: Hz.

    Returns:
        (channels,) float32. They do not depend on how the signal is cut into blocks.
    """
    level = SpeechLevel(sample_rate)
    for block in blocks:
        level.add(block)
    return level.gains()


class SpeechLevel:
    """Measures the gains that bring the speech of a signal to `SPEECH_RMS`, block by block.

    Args:
        sample_rate: Hz.
        seconds: of the signal that count, back from its newest sample, to within a block.
    """

    def __init__(self, sample_rate: int, seconds: float = math.inf) -> None:
        self._sample_rate = sample_rate
        self._size = max(2, round(_SHORT_SECONDS * sample_rate))
        self._most = seconds * sample_rate
        self._rest = np.zeros((1, 0), np.float32)
        # Of each block that counts: powers of short frames, sums and squares, samples.
        self._blocks: deque[tuple[np.ndarray, np.ndarray, int]] = deque()
        self._num_samples = 0

    def add(self, block: np.ndarray) -> None:
        """Measure the next (channels, n) float32; all blocks have as many channels."""
        samples = np.concatenate([self._rest, block], axis=1) if self._rest.size else block
        end = samples.shape[1] // self._size * self._size
        frames = samples[:, :end].reshape(len(samples), -1, self._size)
        self._rest = samples[:, end:]
        sums = np.array(moments(block))
        self._blocks.append((_speech_power(frames, self._sample_rate), sums, block.shape[1]))
        self._num_samples += block.shape[1]
        while self._num_samples - self._blocks[0][2] >= self._most:
            self._num_samples -= self._blocks.popleft()[2]

    def gains(self) -> np.ndarray:
        """Return the gains, (channels,) float32; at least one sample was measured."""
        sums, squares = np.sum([sums for _, sums, _ in self._blocks], axis=0)
        whole = variances(sums, squares, self._num_samples)
        found = np.concatenate([powers for powers, _, _ in self._blocks], axis=1)
        gains = [_speech_gain(*channel) for channel in zip(found, whole, strict=True)]
        return np.array(gains, np.float32)


def _speech_power(frames: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the mean square of short frames without hum and rumble.

    Args:
        frames: (channels, frames, samples) float32.
        sample_rate: Hz.

    Returns:
        (channels, frames) float64.
    """
    window, low = _window_and_low_bins(frames.shape[2], sample_rate)
    frames = frames * window
    frames -= frames @ low @ low.T
    return np.vecdot(frames, frames).astype(np.float64) / float(np.square(window).sum())


@lru_cache
def _window_and_low_bins(size: int, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a window (size,), and what lies below speech in it: orthonormal (size, waves)."""
    num_bins = math.ceil(_SPEECH_FROM_HZ * size / sample_rate)
    phase = 2 * np.pi / size * np.outer(np.arange(size), np.arange(num_bins))
    waves = math.sqrt(2 / size) * np.concatenate([np.cos(phase), np.sin(phase[:, 1:])], axis=1)
    waves[:, 0] = 1 / math.sqrt(size)
    return np.hanning(size).astype(np.float32), waves.astype(np.float32)


def _speech_gain(power: np.ndarray, whole: float) -> float:
    """Return the gain of a channel with these powers of short frames, and of the whole."""
    if whole <= 0:
        return 1.0
    # A click raises one short frame among three.
    power = np.median(power[: len(power) // 3 * 3].reshape(-1, 3), axis=1)
    if not power.any():  # too short to look into, or nothing but hum
        power = np.array([whole])
    active = active_frames(power)
    speech = power[active] if active.any() else power
    level = math.sqrt(np.minimum(speech, _MOST_ABOVE_MEDIAN * np.median(speech)).mean())
    return min(SPEECH_RMS / max(level, SILENCE), 1.0 / math.sqrt(whole))


def fit_gain(reference: np.ndarray, restored: np.ndarray) -> float | None:
    """Fit the gain that gives restored speech the level of the speech in the input.

    The power of the noise under the speech is subtracted from the input's power, because the output
    does not contain that noise.

    Args:
        reference: (frames,) mean squares of the input.
        restored: (frames,) mean squares of the output, same frames.

    Returns:
        The gain (amplitude); None if nobody speaks in the input, or if the output is silent there.
    """
    active = active_frames(reference)
    heard = float(restored[active].sum())
    if not active.any() or heard <= 0:
        return None
    speech = float((reference[active] - noise_floor(reference)).sum())
    return math.sqrt(speech / heard)


def own_level_gain(reference: np.ndarray, restored: np.ndarray) -> float:
    """Return the gain that brings the whole output to the level of the whole input.

    Args and units as in `fit_gain`. The gain of an output of zeros is 1.
    """
    power = float(restored.sum())
    return math.sqrt(float(reference.sum()) / power) if power > 0 else 1.0


MOST_DISAGREEMENT = math.log(4)
"""12 dB, the largest difference that is corrected: if chunks differ by more, one of them failed."""


def disagreement(before: np.ndarray, after: np.ndarray, active: np.ndarray) -> float:
    """Return the difference in level of two chunks where both contain speech.

    Args:
        before: (frames,) mean squares of the earlier chunk in the overlap.
        after: (frames,) mean squares of the later chunk, same frames.
        active: (frames,) bool, the frames in which somebody speaks.

    Returns:
        ln of the amplitude ratio, between -MOST_DISAGREEMENT and MOST_DISAGREEMENT. It is above 0
        if the earlier chunk is louder, and 0 if nobody speaks or if one chunk is silent there.
    """
    powers = float(before[active].sum()), float(after[active].sum())
    if min(powers) <= 0:
        return 0.0
    difference = 0.5 * math.log(powers[0] / powers[1])
    return min(max(difference, -MOST_DISAGREEMENT), MOST_DISAGREEMENT)


def scale(
    channel: np.ndarray, gain: float, seams: tuple[int, int], logs: tuple[float, float]
) -> None:
    """Multiply a chunk by a gain, and by a slope that has it meet its neighbours, in place.

    The logarithm of the slope goes in straight lines from each seam to 0 in the middle.

    Args:
        channel: (samples,) float32.
        gain: in the middle.
        seams: the sample of the first and of the second seam; the gain is constant outside them.
        logs: ln of the slope at each seam.
    """
    (first, second), (left, right) = seams, logs
    middle, half = (first + second) / 2, (second - first) / 2
    turn = math.ceil(middle)
    channel[:first] *= np.float32(gain * math.exp(left))
    _multiply(channel[first:turn], gain * math.exp(left), -left / half)
    _multiply(channel[turn:second], gain * math.exp((turn - middle) * right / half), right / half)
    channel[second:] *= np.float32(gain * math.exp(right))


def _multiply(samples: np.ndarray, gain: float, change: float) -> None:
    """Multiply (samples,) in place by gains whose ln changes by so much from sample to sample.

    Each gain is that of its row times that within the row: few exponentials are needed.
    """
    if change == 0:
        samples *= np.float32(gain)
        return
    rows = samples[: len(samples) // _ROW * _ROW].reshape(-1, _ROW)
    rest = samples[rows.size :]
    of_rows = (gain * np.exp(change * _ROW * np.arange(len(rows) + 1))).astype(np.float32)
    within = np.exp((change * np.arange(_ROW)).astype(np.float32))
    rows *= of_rows[:-1, None]
    rows *= within
    rest *= of_rows[-1] * within[: len(rest)]


class GainTrack:
    """Decides the gains of one channel's chunks, in order, with a bounded look-ahead.

    A chunk that has no gain of its own gets one by interpolation, linear in dB, between the nearest
    chunks that have one. If only one side has such a chunk, it takes that gain; if neither side
    has one, it takes its limit. It never gets more than its limit. To bound the memory, a chunk
    waits for at most `look_ahead` later chunks; then it takes the gain before it.

    Args:
        look_ahead: number of chunks.
    """

    def __init__(self, look_ahead: int) -> None:
        self._look_ahead = look_ahead
        self._previous: float | None = None
        self._limits: list[float] = []  # limits of the chunks that wait

    def push(self, gain: float | None, limit: float) -> list[float]:
        """Add the next chunk.

        Args:
            gain: the chunk's own gain, or None.
            limit: the largest gain that it may get if it has none of its own.

        Returns:
            The gains that are decided now, in the order of their chunks.
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
        """Return the gains of the chunks that still wait; call it after the last chunk."""
        return self._between(self._previous, self._previous)

    def _between(self, before: float | None, after: float | None) -> list[float]:
        limits, self._limits = self._limits, []
        known = [math.log(max(g, 1e-12)) for g in (before, after) if g is not None]
        if not known:
            return limits
        share = np.arange(1, len(limits) + 1) / (len(limits) + 1)
        line = np.exp(known[0] + share * (known[-1] - known[0]))
        return [min(float(gain), limit) for gain, limit in zip(line, limits, strict=True)]


def scale_problem(waveform: np.ndarray) -> str | None:
    """Say that a waveform of floats has the scale of 16-bit integers; None if it has not."""
    loudest = peak_of(waveform)
    if loudest <= _LOUDEST_FLOAT:
        return None
    return f"reaches {loudest:.0f}: the full scale of floats is 1, so divide them by 32768"
