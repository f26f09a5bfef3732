"""How loud the inputs and outputs are, measured in passing."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from open_miipher.restoration import EncodingSink, Source


class Level:
    """The mean level of a signal that comes in blocks."""

    def __init__(self) -> None:
        self._energy, self._num_samples = 0.0, 0

    def add(self, block: np.ndarray) -> None:
        """Measure a block (channels, n) float32."""
        for row in block:
            self._energy += float(np.dot(row, row))
        self._num_samples += block.size

    @property
    def rms(self) -> float:
        """Root of the mean square, full scale 1."""
        return math.sqrt(self._energy / max(1, self._num_samples))

    @property
    def decibels(self) -> float | None:
        """The same in dB of full scale; None for digital silence."""
        return round(20 * math.log10(self.rms), 2) if self.rms > 0 else None


def measured(source: Source, level: Level) -> Source:
    """Return the source; whoever reads it has its level measured."""

    def blocks() -> Iterator[np.ndarray]:
        for block in source.open():
            level.add(block)
            yield block

    return replace(source, open=blocks)


class MeasuredSink:
    """A sink that measures what the file will hold, clipped as the file is."""

    def __init__(self, sink: EncodingSink) -> None:
        self._sink = sink
        self.level = Level()

    @property
    def num_clipped(self) -> int:
        """See `EncodingSink`."""
        return self._sink.num_clipped

    def write(self, block: np.ndarray) -> None:
        """Append a block (channels, n)."""
        clipped_before = self._sink.num_clipped
        self._sink.write(block)
        has_clipped = self._sink.num_clipped > clipped_before
        self.level.add(np.clip(block, -1.0, 1.0) if has_clipped else block)

    def close(self) -> None:
        """Keep what was written."""
        self._sink.close()

    def abort(self) -> None:
        """Throw away what was written."""
        self._sink.abort()
