"""Recorded noise and impulse responses for the degradations, which open no files themselves."""

import numpy as np

from open_miipher.data.decoded import DecodedFiles
from open_miipher.data.files import Files


class RecordedNoise:
    """Draws spans of noise recordings, every file as likely as any other.

    A recording shorter than what is asked goes round, from anywhere in it.

    Args:
        files: at least one.
        sample_rate: of what is returned, in Hz.
    """

    def __init__(self, files: Files | DecodedFiles, sample_rate: int) -> None:
        self._files, self._sample_rate = files, sample_rate

    def __call__(self, rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, str]:
        """Draw a span; see `NoiseSource`."""
        file = self._files[int(rng.integers(len(self._files)))]
        channel = file.draw_channel(rng)
        available = file.num_samples(self._sample_rate)
        if available >= num_samples:
            start = int(rng.integers(available - num_samples + 1))
            noise = file.read(channel, start, num_samples, self._sample_rate)
        else:
            start = int(rng.integers(available))
            whole = file.read(channel, 0, available, self._sample_rate)
            noise = np.resize(np.roll(whole, -start), num_samples)
        return noise, f"{file.name} channel {channel} from {start / self._sample_rate:.3f} s"


class RecordedResponses:
    """Draws impulse responses, every file as likely as any other, whole.

    Args:
        files: at least one.
        sample_rate: of what is returned, in Hz.
    """

    def __init__(self, files: Files | DecodedFiles, sample_rate: int) -> None:
        self._files, self._sample_rate = files, sample_rate

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Draw a response; see `ResponseSource`."""
        file = self._files[int(rng.integers(len(self._files)))]
        channel = file.draw_channel(rng)
        num_samples = file.num_samples(self._sample_rate)
        response = file.read(channel, 0, num_samples, self._sample_rate)
        return response, f"{file.name} channel {channel}"
