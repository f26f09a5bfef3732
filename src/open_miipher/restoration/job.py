"""One signal to restore, cut into chunks for the model."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from open_miipher.audio.chunking import Tap
from open_miipher.audio.resample import num_output_frames
from open_miipher.restoration.chain import Model
from open_miipher.restoration.options import RestoreOptions
from open_miipher.restoration.sink import Sink
from open_miipher.restoration.source import Source

KEPT_SAMPLES = 1 << 24
"""A signal is kept in memory after its first pass up to this size (64 MiB), a longer one is read
again: 17 minutes of one channel at 16 kHz."""


@dataclass(eq=False)
class Chunk:
    """A piece of a job for the model, all channels of it.

    Attributes:
        job: whose it is.
        index: place among the job's chunks.
        waveform: (channels, frames * input_hop) at the model's input rate.
        num_samples: true ones; zeros follow.
        start: of its output in the signal's, in samples at the model's output rate.
        statistics: (channels, numbers) of the whole signal, to normalise by; None: the chunk's own.
        audible: the channels that need the model; the others are digital silence.
        restored: (channels, frames * output_hop), zero until the model has worked.
    """

    job: "Job"
    index: int
    waveform: np.ndarray
    num_samples: int
    start: int
    statistics: Tensor | None
    audible: list[int]
    restored: np.ndarray


@dataclass(eq=False)
class Job:
    """One signal to restore.

    Attributes:
        source: where it comes from.
        sink: where it goes.
        model: restores it.
        options: how.
        error: why it failed, if it did.
        finished: whether its output is complete, or given up.
        seconds: wall time spent on it, by stage: measure, read, model, level, write.
    """

    source: Source
    sink: Sink
    model: Model
    options: RestoreOptions
    error: Exception | None = None
    finished: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        model, source = self.model, self.source
        self.grid = self.options.grid(model)
        self.mono = self.options.channels == "mono"
        self.num_channels = 1 if self.mono else source.num_channels
        self.sample_rate = self.options.output_rate(source.sample_rate, model)
        self.num_samples = num_output_frames(
            source.num_frames, source.sample_rate, self.sample_rate
        )
        num_input = num_output_frames(source.num_frames, source.sample_rate, model.input_rate)
        self.num_model_frames = -(-num_input // model.input_hop)
        self._is_kept = num_input * self.num_channels <= KEPT_SAMPLES

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time spent inside as that stage's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def chunks(self) -> Iterator[Chunk]:
        """Read the source and cut it into chunks.

        Raises:
            AudioError: the source cannot be read.
        """
        blocks, statistics = self._opened()
        stream = Tap(blocks, self.num_channels)
        for index, (start, end) in enumerate(self.grid.bounds(self.num_model_frames)):
            with self.timed("read"):
                waveform = stream.peek((end - start) * self.model.input_hop)
                chunk = self._chunk(index, start, end - start, waveform, statistics)
                stream.drop(self.grid.hop_frames * self.model.input_hop)
            yield chunk

    def _blocks(self) -> Iterator[np.ndarray]:
        return self.source.resampled(self.model.input_rate, self.mono)

    def _needs_statistics(self) -> bool:
        return (
            self.model.needs_statistics
            and self.options.normalise_over == "file"
            and self.options.strength > 0
            and self.grid.num_chunks(self.num_model_frames) > 1  # a lone chunk's are the file's
        )

    def _opened(self) -> tuple[Iterator[np.ndarray], Tensor | None]:
        """Return the source's blocks from the start, and its statistics where they are needed."""
        if not self._needs_statistics():
            return self._blocks(), None
        if not self._is_kept:
            with self.timed("measure"):
                return self._blocks(), self.model.measure(self._blocks())
        with self.timed("read"):
            kept = list(self._blocks())
        with self.timed("measure"):
            return iter(kept), self.model.measure(kept)

    def _chunk(
        self,
        index: int,
        start: int,
        num_frames: int,
        waveform: np.ndarray,
        statistics: Tensor | None,
    ) -> Chunk:
        model = self.model
        num_output = num_frames * model.output_hop
        num_samples = waveform.shape[1]
        padding = num_frames * model.input_hop - num_samples
        audible = [c for c, row in enumerate(waveform) if row.any() and self.options.strength > 0]
        return Chunk(
            self,
            index,
            np.pad(waveform, ((0, 0), (0, padding))),
            num_samples,
            start * model.output_hop,
            statistics,
            audible,
            np.zeros((self.num_channels, num_output), dtype=np.float32),
        )
