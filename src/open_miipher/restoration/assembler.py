"""Assemble the model's chunks into one signal of the right level, sample rate and length.

`audio/level.py` explains the levels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from open_miipher.audio.chunking import OverlapAdd, Tap
from open_miipher.audio.io import AudioError, RefusedName
from open_miipher.audio.level import (
    FRAME_SECONDS,
    GainTrack,
    PowerWithoutRumble,
    active_frames,
    disagreement,
    fit_gain,
    own_level_gain,
    scale,
)
from open_miipher.audio.resample import StreamResampler, resample
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.restoration.highs import UpperBand, share_removed
from open_miipher.restoration.job import Chunk, Job
from open_miipher.restoration.trust import TrustMeter

LOOK_AHEAD = 4
"""A chunk without speech waits at most this many chunks for one with speech (see `GainTrack`)."""


@dataclass(eq=False)
class _Waiting:
    """A restored chunk whose level is not decided yet.

    `head` and `tail` are powers, which are mean squares of frames, (channels, frames), where the
    chunk overlaps the one before it and the one after it.
    """

    restored: np.ndarray  # (channels, samples)
    head: np.ndarray  # powers of the first overlap
    tail: np.ndarray  # powers of the last overlap
    active: np.ndarray  # (channels, frames) bool: which frames of the first overlap are speech
    spoken: np.ndarray  # (channels,) bool: whether the chunk has speech, which gives its gain


class Leveler:
    """Scales a job's restored chunks, in order, to their level in the input.

    Args:
        job: has the chunks.
    """

    def __init__(self, job: Job) -> None:
        model, grid = job.model, job.grid
        group = max(1, round(FRAME_SECONDS * model.input_rate / model.input_hop))
        self._rates = model.input_rate, model.output_rate
        self._input_length, self._output_length = group * model.input_hop, group * model.output_hop
        self._num_shared = grid.overlap_frames // group
        self._hop = grid.hop_frames * model.output_hop
        middle = grid.overlap_frames * model.output_hop // 2
        self._seams = middle, self._hop + middle
        self._tracks = [GainTrack(LOOK_AHEAD) for _ in range(job.num_channels)]
        self._gains: list[list[float]] = [[] for _ in self._tracks]
        self._waiting: list[_Waiting] = []
        self._decided: list[tuple[_Waiting, np.ndarray]] = []  # chunks with their gains
        # Log gain at the first seam of the oldest decided chunk, (channels,): see `scale`.
        self._logs = np.zeros(job.num_channels)

    def push(self, chunk: Chunk, last: bool) -> list[np.ndarray]:
        """Take the next restored chunk; return the scaled chunks whose level is decided now."""
        given = PowerWithoutRumble(chunk.waveform, chunk.num_samples, self._rates[0])
        made = PowerWithoutRumble(chunk.restored, chunk.restored.shape[1], self._rates[1])
        before, after = given.of_frames(self._input_length), made.of_frames(self._output_length)
        tail = made.of_frames(self._output_length, start=self._hop)
        own = [fit_gain(*powers) for powers in zip(before, after, strict=True)]
        shared = slice(self._num_shared)
        waiting = _Waiting(
            chunk.restored,
            head=after[:, shared],
            tail=tail[:, shared],
            active=np.array([active_frames(powers)[shared] for powers in before]),
            spoken=np.array([gain is not None for gain in own]),
        )
        self._waiting.append(waiting)
        for track, gains, gain, reference, restored in zip(
            self._tracks, self._gains, own, before, after, strict=True
        ):
            gains += track.push(gain, own_level_gain(reference, restored))
            if last:
                gains += track.finish()
        for _ in range(min(map(len, self._gains))):
            gain_of_each = np.array([gains.pop(0) for gains in self._gains])
            self._decided.append((self._waiting.pop(0), gain_of_each))
        settled = [self._join(*pair) for pair in pairwise(self._decided)]
        del self._decided[:-1]
        if last:
            settled.append(self._scale(*self._decided[0], np.zeros_like(self._logs)))
        return settled

    def _join(
        self, first: tuple[_Waiting, np.ndarray], second: tuple[_Waiting, np.ndarray]
    ) -> np.ndarray:
        """Scale the first chunk to meet the second one; store the second one's first log gain."""
        (earlier, gains), (later, later_gains) = first, second
        powers = zip(
            gains[:, None] ** 2 * earlier.tail,
            later_gains[:, None] ** 2 * later.head,
            later.active,
            strict=True,
        )
        differences = np.array([disagreement(*channel) for channel in powers])
        half = np.where(earlier.spoken & later.spoken, differences / 2, 0.0)
        scaled = self._scale(earlier, gains, -half)
        self._logs = half
        return scaled

    def _scale(self, chunk: _Waiting, gains: np.ndarray, logs: np.ndarray) -> np.ndarray:
        pairs = zip(self._logs, logs, strict=True)
        for channel, gain, pair in zip(chunk.restored, gains, pairs, strict=True):
            scale(channel, gain, self._seams, pair)
        return chunk.restored


class WriteError(UserError):
    """An output cannot be written, for example on a full disk; other outputs would fail too."""


class Assembler:
    """Joins a job's restored chunks and writes the signal to the job's sink.

    Attributes:
        levels: whether chunks wait for the level of later ones (see `GainTrack`).
    """

    def __init__(self, job: Job) -> None:
        self.job, model = job, job.model
        self._num_chunks: int | None = None  # known once the last one is here
        self._early: dict[int, Chunk] = {}
        self._num_leveled = self._num_joined = 0
        self.levels = job.options.level != "none" and not model.restores_level
        self._leveler = Leveler(job) if self.levels else None
        self._overlap_add = OverlapAdd(job.grid, model.output_hop)
        # Above the model's band the input's own is kept; the share of it that goes takes the
        # same way as the signal: as further channels.
        rates = job.source.sample_rate, job.sample_rate
        keeps_highs = model.restores_level and job.options.strength > 0
        has_highs = keeps_highs and min(rates) > model.output_rate
        self._upper = UpperBand(job) if has_highs else None
        num_channels = job.num_channels * (1 if self._upper is None else 2)
        self._resampler = StreamResampler(model.output_rate, job.sample_rate, num_channels)
        self._dry = (
            Tap(job.source.resampled(job.sample_rate, job.mono), job.num_channels)
            if job.options.strength < 1
            else None
        )
        self._trust = (
            TrustMeter(
                model.input_rate, job.sample_rate, job.num_channels, job.options.trust_speaker
            )
            if job.options.measures_trust
            else None
        )

    def accept(self, chunk: Chunk) -> bool:
        """Take a restored chunk, in any order.

        Returns:
            Whether the signal is complete; if so, its sink is closed.

        Raises:
            AudioError: the model gave NaN or Inf, the source (read again for `strength`) fails, or
                the output's name is refused.
            WriteError: the output cannot be written.
        """
        if not np.isfinite(np.vdot(chunk.restored, chunk.restored)):  # sooner than one by one
            raise AudioError(f"{self.job.source.name}: the model gave NaN or Inf")
        self.job.seconds["model"] += chunk.seconds
        self._early[chunk.index] = chunk
        if chunk.last:
            self._num_chunks = chunk.index + 1
        while self._num_leveled in self._early:
            for restored in self._level(self._early.pop(self._num_leveled)):
                self._join(restored)
        if self._num_joined != self._num_chunks:
            return False
        if self._trust is not None:
            self.job.trust = trust = self._trust.finish()
            if trust.score < self.job.options.min_trust:
                self._keep_input()
        with self._writing():
            self.job.sink.close()
        return True

    def _keep_input(self) -> None:
        """Write the input, read again, instead of what was written so far."""
        self.job.kept_input = True
        self.job.sink.restart()
        for block in self.job.source.resampled(self.job.sample_rate, self.job.mono):
            with self._writing():
                self.job.sink.write(block)

    def _level(self, chunk: Chunk) -> list[np.ndarray]:
        self._num_leveled += 1
        if self._trust is not None:
            last = self._num_leveled == self._num_chunks
            hop = self.job.grid.hop_frames * self.job.model.input_hop  # what follows comes again
            with self.job.timed("trust"):
                end = chunk.num_samples if last else hop
                self._trust.push_input(chunk.waveform[:, :end], last)
        if self._upper is not None:
            with self.job.timed("level"):
                own = resample(
                    chunk.waveform, self.job.model.input_rate, self.job.model.output_rate
                )
                removed = share_removed(own, chunk.restored, self.job.model.output_rate)
                return [np.concatenate([chunk.restored, removed])]
        if self._leveler is None:
            return [chunk.restored]
        with self.job.timed("level"):
            return self._leveler.push(chunk, chunk.last)

    def _join(self, restored: np.ndarray) -> None:
        self._num_joined += 1
        last = self._num_joined == self._num_chunks
        with self.job.timed("write"):
            block = self._overlap_add.push(restored, last)
            if last:  # padded: rounding must not make the output a sample too short
                block = np.pad(block, ((0, 0), (0, self.job.model.output_hop)))
            block = self._resampler.push(block, last)
        if last:
            block = block[:, : self.job.num_samples - self.job.num_written]
        self.job.num_written += block.shape[1]
        if self._upper is not None:
            block, removed = np.split(block, 2)
            block = block + (1 - removed.clip(0, 1)) * self._upper.take(block.shape[1])
        if self._dry is not None:
            wet = np.float32(self.job.options.strength)
            dry = self._dry.peek(block.shape[1])
            self._dry.drop(block.shape[1])
            block = wet * block + (1 - wet) * dry
        with self._writing():
            self.job.sink.write(block)
        if self._trust is not None:
            with self.job.timed("trust"):
                self._trust.push_output(block, last)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self.job.timed("write"), write_errors():
            yield


@contextmanager
def write_errors() -> Iterator[None]:
    """Raise what the disk refuses as a `WriteError`, but for a name that it does not take."""
    try:
        yield
    except RefusedName:
        raise  # of this output alone
    except AudioError as error:
        raise WriteError(str(error)) from error
    except OSError as error:
        # A file that has no name is one that a sink keeps a signal in.
        what = "a temporary file" if error.filename is None else printable(error.filename)
        raise WriteError(f"{what} cannot be written: {error.strerror}") from error
