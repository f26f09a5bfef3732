"""Powers of signals, in float32: about the mean, and over time without hum and rumble."""

from functools import lru_cache

import numpy as np

RUMBLE = 100.0, 150.0
"""Hz: levels leave out what lies below the first, and all of what lies above the second counts."""

_SLOW_RATE = 800  # Hz: rumble and its images are far apart there
_SMOOTH_STEPS = 9  # odd
_SMOOTH_SHAPE = 8.0  # of a Kaiser window: 80 dB, so that hum 40 dB above speech is taken off
_RUMBLE_TAPS = 48  # to either side: 60 ms

_ROUNDING = 1e-12  # of float32 means, squared; 16 bits have a million times as much noise
_ONES = np.ones(1024, np.float32)


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
