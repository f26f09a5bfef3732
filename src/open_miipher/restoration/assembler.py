"""The model's chunks put together again, at the right level, rate and length."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from open_miipher.audio.chunking import OverlapAdd, Tap
from open_miipher.audio.io import AudioError
from open_miipher.audio.resample import StreamResampler
from open_miipher.base.errors import UserError
from open_miipher.restoration.job import Chunk, Job
from open_miipher.restoration.leveler import Leveler


class WriteError(UserError):
    """An output cannot be written: the disk is full, say. The next ones would fare no better."""


class Assembler:
    """Puts a job's restored chunks together and hands the signal to the job's sink."""

    def __init__(self, job: Job) -> None:
        self.job, model = job, job.model
        self._num_chunks = job.grid.num_chunks(job.num_model_frames)
        self._early: dict[int, Chunk] = {}
        self._num_leveled = self._num_joined = self._num_written = 0
        needs_level = job.options.level != "none" and not model.restores_level
        self._leveler = Leveler(job) if needs_level else None
        self._overlap_add = OverlapAdd(job.grid, model.output_hop)
        self._resampler = StreamResampler(model.output_rate, job.sample_rate, job.num_channels)
        self._dry = (
            Tap(job.source.resampled(job.sample_rate, job.mono), job.num_channels)
            if job.options.strength < 1
            else None
        )

    def accept(self, chunk: Chunk) -> bool:
        """Take a restored chunk, in any order.

        Returns:
            Whether the signal is complete; its sink is closed then.

        Raises:
            AudioError: the model gave no numbers, or the source (read again for `strength`) fails.
            WriteError: the output cannot be written.
        """
        if not np.isfinite(chunk.restored).all():
            raise AudioError(f"{self.job.source.name}: the model gave NaN or Inf")
        self._early[chunk.index] = chunk
        while self._num_leveled in self._early:
            for restored in self._level(self._early.pop(self._num_leveled)):
                self._join(restored)
        if self._num_joined < self._num_chunks:
            return False
        with self._writing():
            self.job.sink.close()
        return True

    def _level(self, chunk: Chunk) -> list[np.ndarray]:
        self._num_leveled += 1
        if self._leveler is None:
            return [chunk.restored]
        with self.job.timed("level"):
            return self._leveler.push(chunk, last=self._num_leveled == self._num_chunks)

    def _join(self, restored: np.ndarray) -> None:
        self._num_joined += 1
        last = self._num_joined == self._num_chunks
        with self.job.timed("write"):
            block = self._overlap_add.push(restored, last)
            if last:  # rounding must not leave the output a sample short
                block = np.pad(block, ((0, 0), (0, self.job.model.output_hop)))
            block = self._resampler.push(block, last)
        block = block[:, : self.job.num_samples - self._num_written]
        self._num_written += block.shape[1]
        if self._dry is not None:
            wet = np.float32(self.job.options.strength)
            dry = self._dry.peek(block.shape[1])
            self._dry.drop(block.shape[1])
            block = wet * block + (1 - wet) * dry
        with self._writing():
            self.job.sink.write(block)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self.job.timed("write"):
                yield
        except AudioError as error:
            raise WriteError(str(error)) from error
        except OSError as error:
            raise WriteError(f"{error.filename} cannot be written: {error.strerror}") from error
