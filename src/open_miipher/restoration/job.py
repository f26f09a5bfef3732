"""What a user asks of restoring, and one signal to restore, cut into chunks for the model."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from open_miipher.audio.chunking import ChunkGrid, Tap
from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import report
from open_miipher.restoration.chain import Model
from open_miipher.restoration.streams import Sink, Source

LEVELS = ("match-input", "peak", "none")
NORMALISE_OVER = ("file", "chunk")
SAMPLE_RATES = (1000, 768_000)


@dataclass(frozen=True)
class RestoreOptions:
    """All that changes what comes out.

    Attributes:
        sample_rate: of the output: the model's, the input's, or Hz.
        channels: mix to one channel, or restore each by itself.
        level: `match-input`: speech as loud as in the input; `peak`: the whole output at a fixed
            peak; `none`: as the model gives it.
        strength: share of the restored signal; the rest is the input.
        chunk_seconds: how much the model sees at once.
        overlap_seconds: shared by neighbouring chunks.
        normalise_over: what an encoder that normalises what it hears takes mean and variance of:
            the whole `file`, in a first pass, or each `chunk`. Many encoders do not normalise, and
            a file of one chunk comes out the same.
        seed: of the noise that the vocoder starts from.

    Raises:
        UserError: on construction, naming every bad value.
    """

    sample_rate: int | Literal["model", "input"] = "model"
    channels: Literal["mono", "each"] = "mono"
    level: Literal["match-input", "peak", "none"] = "match-input"
    strength: float = 1.0
    chunk_seconds: float = 20.0
    overlap_seconds: float = 2.0
    normalise_over: Literal["file", "chunk"] = "file"
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = SAMPLE_RATES
        rate = self.sample_rate
        known_rate = rate in ("model", "input") if isinstance(rate, str) else low <= rate <= high
        rules = [
            (known_rate, f"sample rate {rate!r}: choose model, input or {low} to {high} Hz"),
            (self.channels in ("mono", "each"), f"channels {self.channels!r}: choose mono or each"),
            (self.level in LEVELS, f"level {self.level!r}: choose one of {', '.join(LEVELS)}"),
            (0 <= self.strength <= 1, f"strength {self.strength}: choose 0 to 1"),
            (0 < self.chunk_seconds < float("inf"), f"chunk of {self.chunk_seconds} s: too short"),
            (
                0 <= 2 * self.overlap_seconds <= self.chunk_seconds,
                f"overlap of {self.overlap_seconds} s: choose 0 to half a chunk "
                f"({self.chunk_seconds / 2:g} s)",
            ),
            (
                self.normalise_over in NORMALISE_OVER,
                f"normalise over {self.normalise_over!r}: choose {' or '.join(NORMALISE_OVER)}",
            ),
            (0 <= self.seed < 2**63, f"seed {self.seed}: choose 0 or more"),
        ]
        report([problem for fine, problem in rules if not fine])

    def grid(self, model: Model) -> ChunkGrid:
        """Return the chunks in the model's feature frames."""
        return ChunkGrid.from_seconds(
            self.chunk_seconds, self.overlap_seconds, model.input_rate / model.input_hop
        )

    def output_rate(self, input_rate: int, model: Model) -> int:
        """Return the output's sample rate in Hz for an input of `input_rate` Hz."""
        if self.sample_rate == "input":
            return input_rate
        return model.output_rate if self.sample_rate == "model" else self.sample_rate


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
