"""Restore a signal while it comes in: push blocks, get restored blocks back.

The pieces are those that restore a file (`job`, `batches`, `assembler`). Only the source differs:
each of its readers has what was pushed so far, and a chunk goes to the model once it is whole.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from open_miipher.audio.formats import whole_rate
from open_miipher.audio.io import LARGEST_SAMPLE
from open_miipher.audio.resample import StreamResampler, num_output_frames, resampling_delay
from open_miipher.base.errors import UserError
from open_miipher.restoration.assembler import LOOK_AHEAD, Assembler
from open_miipher.restoration.batches import restore_chunks
from open_miipher.restoration.chain import Model
from open_miipher.restoration.job import Chunk, Cutter, Job, RestoreOptions
from open_miipher.restoration.streams import ArraySink, Source, steps_between

_GATHERED_SECONDS = 0.01
"""Shorter blocks are gathered to such a length: work on single samples would take long."""


class Stream:
    """One signal that is restored while it comes in; memory does not grow with its length.

    However a signal is cut into blocks, what comes back, joined, is bit for bit what a `Restorer`
    of batch size 1 gives for the whole with the option `normalise_over="past"` (larger batches
    round in another way: 1e-6): the speech is brought to the model's level by what was heard so
    far, and an encoder that normalises its input does so chunk by chunk. A signal of one chunk
    becomes what it does with any `normalise_over`. The model works inside `push`, once for every
    `chunk_seconds` less `overlap_seconds`.

    Args:
        model: restores chunks.
        options: of the restoration; short chunks come back sooner.
        sample_rate: of the blocks, in Hz.
        batch_size: the most channels that the model restores at once.

    Attributes:
        sample_rate: of what comes back, in Hz.
        latency_seconds: what was pushed has come back after so much more was pushed, at the latest;
            the time that the model takes comes on top.

    Raises:
        UserError: the options need the whole signal, or do not fit the model; or the sample rate is
            none.
    """

    def __init__(
        self, model: Model, options: RestoreOptions, sample_rate: int, batch_size: int
    ) -> None:
        if options.level == "peak":
            raise UserError(
                "level peak needs the whole signal: for a stream choose match-input or none"
            )
        if options.measures_trust:
            raise UserError(
                "trust is measured in whole signals: leave it out for a stream, and give trust_of "
                "what went in and what came out"
            )
        self._model, self._batch_size = model, batch_size
        self._options = replace(options, normalise_over="past", trust=False)
        self._input_rate = whole_rate(sample_rate)
        self.sample_rate = options.output_rate(self._input_rate, model)
        self._gathered: list[np.ndarray] = []
        self._work: _Work | None = None
        self._shape: tuple[int, ...] | None = None  # of a block without its samples
        self._ended = ""
        self.latency_seconds = self._started(1).latency_seconds + _GATHERED_SECONDS

    def push(self, block: np.ndarray) -> np.ndarray:
        """Take the next block; return what is restored by now.

        Args:
            block: (n,) or (channels, n) floats, n ≥ 0, full scale ±1; it is copied. The first block
                decides on the number of channels.

        Returns:
            (m,) or (channels, m) float32 at `sample_rate`; m may be 0.

        Raises:
            UserError: the block is none that fits, and the stream goes on without it; the model
                failed, or the stream has ended.
        """
        samples = self._checked(block)
        self._shape = block.shape[:-1]
        if samples.size:
            self._gathered.append(samples)
        if sum(s.shape[1] for s in self._gathered) < _GATHERED_SECONDS * self._input_rate:
            return np.zeros((*self._shape, 0), np.float32)
        return self._advance(last=False)

    def finish(self) -> np.ndarray:
        """End the stream; return the rest, in the shape that `push` returns.

        The frames of all answers are round-half-up(frames pushed · rate out / rate in), at least 1;
        none if no frame was pushed.

        Raises:
            UserError: the model failed, or the stream has ended before.
        """
        self._check_that_it_goes_on()
        if self._work is None and not self._gathered:
            self._ended = "it was finished"
            return np.zeros((*(self._shape or ()), 0), np.float32)
        rest = self._advance(last=True)
        self._ended = "it was finished"
        return rest

    def _advance(self, last: bool) -> np.ndarray:
        assert self._shape is not None
        if self._work is None:
            self._work = self._started(self._shape[0] if self._shape else 1)
        empty = np.zeros((self._shape[0] if self._shape else 1, 0), np.float32)
        block = np.concatenate([empty, *self._gathered], axis=1)
        self._gathered = []
        try:
            restored = self._work.advance(block, last, self._batch_size)
        except UserError as error:
            self._ended = f"it failed: {error}"
            raise
        return restored if self._shape else restored[0]

    def _started(self, num_channels: int) -> "_Work":
        source = _Live("the stream", self._input_rate, 0, num_channels, lambda: iter(()))
        return _Work(source, self._model, self._options)

    def _checked(self, block: np.ndarray) -> np.ndarray:
        """Return a copy of a block as (channels, n) float32."""
        self._check_that_it_goes_on()
        if not isinstance(block, np.ndarray) or not np.issubdtype(block.dtype, np.floating):
            kind = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
            raise UserError(f"a block of {kind}: push an array of floats, full scale ±1")
        if block.ndim not in (1, 2) or not all(block.shape[:-1]):
            raise UserError(f"a block of shape {block.shape}: push (n,) or (channels, n)")
        if self._shape not in (None, block.shape[:-1]):
            raise UserError(
                f"a block of shape {block.shape} in a stream whose first block had "
                f"{self._shape[0] if self._shape else 'no'} rows: push them all alike"
            )
        if block.ndim == 2 and len(block) > 1 and self._options.channels == "mono":
            raise UserError(
                f"{len(block)} channels: how they become one is found in the whole signal, so mix "
                'them yourself (block.mean(axis=0)), or choose channels="each"'
            )
        if not (np.abs(block) <= LARGEST_SAMPLE).all():
            raise UserError(f"a block holds NaN or Inf, or numbers beyond {LARGEST_SAMPLE:.0e}")
        return np.atleast_2d(np.array(block, np.float32))

    def _check_that_it_goes_on(self) -> None:
        if self._ended:
            raise UserError(f"the stream has ended, {self._ended}; begin another one")


class _Work:
    """A job whose source is live: what of it can be done now, is."""

    def __init__(self, source: "_Live", model: Model, options: RestoreOptions) -> None:
        self._source, self._sink = source, ArraySink()
        self._job = job = Job(source, self._sink, model, options)
        self._to_model = source.resampled(model.input_rate, job.mono)
        gains = np.ones(job.num_channels, np.float32) if job.options.strength == 0 else None
        self._cutter = Cutter(job, self._to_model, gains)
        self._assembler = Assembler(job)
        self._restored: deque[Chunk] = deque()  # but not joined yet
        self._num_pushed = 0

    @property
    def latency_seconds(self) -> float:
        model, grid = self._job.model, self._job.grid
        chunk, margin, hop = (
            frames * model.input_hop / model.input_rate
            for frames in (grid.chunk_frames, grid.margin_frames, grid.hop_frames)
        )
        # What comes just after the samples that a chunk gave waits for the next chunk.
        after = resampling_delay(model.output_rate, self._job.sample_rate)
        waits = max(chunk, chunk - margin + after)
        if self._assembler.levels:
            waits = chunk - margin + after + (LOOK_AHEAD + 1) * hop
        return waits + max(reader.delay for reader in self._source.readers)

    def advance(self, block: np.ndarray, last: bool, batch_size: int) -> np.ndarray:
        """Take (channels, n) at the source's rate; return what is ready, (channels, m)."""
        job, grid = self._job, self._job.grid
        self._num_pushed += block.shape[1]
        for reader in self._source.readers:
            reader.give(block, last)
        if last:
            job.num_samples = num_output_frames(
                self._num_pushed, self._source.sample_rate, job.sample_rate
            )
        num_frames = -(-self._to_model.num_given // job.model.input_hop)
        num_chunks = grid.num_chunks(num_frames)
        # The newest one may be the last: whether it is shows when something follows, or ends.
        for number in range(self._cutter.num_cut + 1, num_chunks + last):
            chunk = self._cutter.cut(last=last and number == num_chunks)
            for _ in restore_chunks(iter([chunk]), job.model, batch_size, alone=True):
                self._restored.append(chunk)
        while self._restored and (last or self._is_given(self._restored[0])):
            self._assembler.accept(self._restored.popleft())
        return self._sink.take(job.num_channels)

    def _is_given(self, chunk: Chunk) -> bool:
        """Whether all readers have what belongs to a chunk, its last output sample included."""
        end = chunk.start + chunk.restored.shape[1]
        num_needed = -(-end * self._job.sample_rate // self._job.model.output_rate) + 1
        others = (reader for reader in self._source.readers if reader is not self._to_model)
        return all(reader.num_given >= num_needed for reader in others)


class _Reader(Iterator[np.ndarray]):
    """The blocks that one reader of a live source has before it, at its own rate.

    Unlike other iterators, it may be empty for a while and then go on.

    Attributes:
        num_given: samples so far.
        delay: by how many seconds they lag behind the source, at most.
    """

    def __init__(self, steps: list[tuple[int, int]], num_channels: int) -> None:
        self._resamplers = [StreamResampler(*step, num_channels) for step in steps]
        self._blocks: deque[np.ndarray] = deque()
        self.num_given = 0
        self.delay = sum(resampling_delay(*step) for step in steps)

    def give(self, block: np.ndarray, last: bool) -> None:
        for resampler in self._resamplers:
            block = resampler.push(block, last)
        self.num_given += block.shape[1]
        self._blocks.append(block)

    def __next__(self) -> np.ndarray:
        if not self._blocks:
            raise StopIteration
        return self._blocks.popleft()


@dataclass(frozen=True)
class _Live(Source):
    """A source whose frames are still to come; its number of frames says nothing."""

    readers: list[_Reader] = field(default_factory=list)

    def resampled(self, sample_rate: int, mono: bool, through: int | None = None) -> _Reader:
        """Return a reader of what will be pushed (mono: there is one channel)."""
        reader = _Reader(steps_between(self.sample_rate, through, sample_rate), self.num_channels)
        self.readers.append(reader)
        return reader
