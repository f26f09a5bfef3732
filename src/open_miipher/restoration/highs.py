"""Keep what a recording has above the model's band, as quiet as the model made what lies below it.

A model at 24 kHz gives nothing above 12 kHz. Where the output has a higher rate, the input's own
upper band is added, times a gain that follows the model: what it did to the highest octave of its
own band, moment by moment. Noise that it removed there goes above it too; consonants stay.
"""

import numpy as np

from open_miipher.audio.chunking import Tap
from open_miipher.restoration.job import Job

_HOP_SECONDS = 0.01
_OCTAVE = (0.5, 0.9)  # of half the model's rate; above it resampling has an edge
_SMALLEST_POWER = 1e-12


class UpperBand:
    """The part of a job's input above its model's band, at the output's rate, read as a stream."""

    def __init__(self, job: Job) -> None:
        self._all = Tap(job.source.resampled(job.sample_rate, job.mono), job.num_channels)
        low = job.source.resampled(job.sample_rate, job.mono, through=job.model.output_rate)
        self._low = Tap(low, job.num_channels)

    def take(self, num_samples: int) -> np.ndarray:
        """Return the next (channels, samples)."""
        everything, low = (tap.peek(num_samples) for tap in (self._all, self._low))
        for tap in (self._all, self._low):
            tap.drop(num_samples)
        return everything - np.pad(low, ((0, 0), (0, everything.shape[1] - low.shape[1])))


def share_removed(before: np.ndarray, after: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the share of the highest octave's magnitude that was removed, for every sample.

    Args:
        before: (channels, samples) of a chunk, as the model got it.
        after: the same, as it gave it back.
        sample_rate: of both, in Hz.

    Returns:
        (channels, samples) float32 from 0 (nothing; also at the ends of a signal) to 1.
    """
    hop = max(1, round(_HOP_SECONDS * sample_rate))
    power = [_octave_power(x, hop) + _SMALLEST_POWER for x in (after, before)]
    removed = 1 - np.sqrt(np.minimum(power[0] / power[1], 1.0))
    places = np.arange(before.shape[1]) / hop
    return np.stack([np.interp(places, np.arange(len(row)), row) for row in removed]).astype(
        np.float32
    )


def _octave_power(waveform: np.ndarray, hop: int) -> np.ndarray:
    """(channels, samples) -> (channels, frames), frame k centred on sample k · hop."""
    size = 4 * hop
    padded = np.pad(waveform, ((0, 0), (size // 2, size // 2 + hop)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, ::hop]
    spectrum = np.fft.rfft(frames * np.hanning(size + 1)[:-1].astype(np.float32), axis=2)
    low, high = (round(share * (size // 2)) for share in _OCTAVE)
    power: np.ndarray = np.square(np.abs(spectrum[..., low:high])).mean(axis=2)
    return power
