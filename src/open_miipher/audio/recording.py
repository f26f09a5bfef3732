"""Recordings that are not decoded yet, and spans of them at any sample rate."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import gcd

import numpy as np

from open_miipher.audio.reading import AudioInfo
from open_miipher.audio.resample import num_output_frames, resample

_MARGIN_SECONDS = 0.05
"""Read on both sides of a span, so that resampling it equals resampling the whole recording."""


@dataclass(frozen=True)
class Recording(ABC):
    """A recording whose length, rate and channels are known, and which is decoded in spans.

    Attributes:
        name: for messages.
        info: rate, length and channels.
    """

    name: str
    info: AudioInfo

    @abstractmethod
    def decode(self, start: int, count: int) -> np.ndarray:
        """Return `count` frames from frame `start` on: (channels, count) float32.

        Raises:
            UserError: it cannot be decoded; the message names it.
        """

    def num_samples(self, sample_rate: int) -> int:
        """Return its length once resampled to `sample_rate` Hz."""
        return num_output_frames(self.info.num_frames, self.info.sample_rate, sample_rate)

    def draw_channel(self, rng: np.random.Generator) -> int:
        """Draw one of the channels: a mean of several would cancel what differs in phase."""
        return int(rng.integers(self.info.num_channels)) if self.info.num_channels > 1 else 0

    def read(self, channel: int, start: int, num_samples: int, sample_rate: int) -> np.ndarray:
        """Read a span of one channel, resampled.

        The span's place is computed in the recording's own frames: reading begins on a frame that
        falls on a sample of the new rate, so that the result equals that part of the whole
        recording resampled; only the span and a margin are decoded.

        Args:
            channel: which.
            start: first sample, counted at `sample_rate`.
            num_samples: how many, within the recording.
            sample_rate: Hz to resample to.

        Returns:
            (num_samples,) float32.

        Raises:
            UserError: as `decode`.
        """
        rate = self.info.sample_rate
        if rate == sample_rate:
            return self.decode(start, num_samples)[channel]
        frames, samples = rate // gcd(rate, sample_rate), sample_rate // gcd(rate, sample_rate)
        margin = round(_MARGIN_SECONDS * sample_rate)
        first_period = max(0, start - margin) // samples
        first_frame = first_period * frames
        last_frame = -(-(start + num_samples + margin) * rate // sample_rate)
        count = min(self.info.num_frames, last_frame) - first_frame
        span = self.decode(first_frame, count)[channel]
        offset = start - first_period * samples
        return resample(span, rate, sample_rate)[offset : offset + num_samples]
