"""Sources of audio and sinks for restored audio: files, arrays, memory; in blocks."""

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from open_miipher.audio.formats import whole_rate
from open_miipher.audio.io import (
    AudioError,
    AudioFile,
    AudioInfo,
    AudioReader,
    AudioWriter,
    MemoryWriter,
    RefusedName,
    shown,
)
from open_miipher.audio.level import moments, variances
from open_miipher.audio.mixing import Mix, mix_of
from open_miipher.audio.resample import StreamResampler
from open_miipher.base.atomic import name_refusal
from open_miipher.base.paths import printable

BLOCK_FRAMES = 1 << 16


class Level:
    """The mean level of a signal that comes in blocks; a constant offset is no level."""

    def __init__(self) -> None:
        self._num_frames, self._sums, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, block: np.ndarray) -> None:
        """Measure a block (channels, n) float32; all blocks have as many channels."""
        sums, squares = moments(block)
        self._sums, self._squares = self._sums + sums, self._squares + squares
        self._num_frames += block.shape[1]

    @property
    def rms(self) -> float:
        """Root of the mean square about the mean, full scale 1."""
        found = variances(self._sums, self._squares, max(1, self._num_frames))
        return math.sqrt(found.mean())

    @property
    def decibels(self) -> float | None:
        """The same in dB of full scale; None for digital silence."""
        return round(20 * math.log10(self.rms), 2) if self.rms > 0 else None


@dataclass(frozen=True)
class Source:
    """Audio that can be read from its start any number of times.

    Attributes:
        name: for messages.
        sample_rate: in Hz.
        num_frames: per channel.
        num_channels: of the source.
        open: returns all frames from the start, in blocks (channels, n) float32.
        level: of all blocks that `resampled` has read.
    """

    name: str
    sample_rate: int
    num_frames: int
    num_channels: int
    open: Callable[[], Iterator[np.ndarray]]
    level: Level = field(default_factory=Level, compare=False)

    @classmethod
    def from_file(
        cls, file: AudioFile, info: AudioInfo, start: int = 0, num_frames: int | None = None
    ) -> "Source":
        """Read a file that was probed before, or a part of it.

        Args:
            file: a path, or a file in memory.
            info: result of the probe.
            start: first frame.
            num_frames: number of frames; None: up to the end.

        Raises:
            AudioError: while reading: the file is damaged, or was changed after the probe.
        """
        num_frames = info.num_frames - start if num_frames is None else num_frames

        def blocks() -> Iterator[np.ndarray]:
            with AudioReader(file) as reader:
                if reader.info != info:
                    raise AudioError(f"{shown(file)} was changed while it was waiting")
                yield from reader.blocks(BLOCK_FRAMES, start, num_frames)

        return cls(shown(file), info.sample_rate, num_frames, info.num_channels, blocks)

    @classmethod
    def from_array(
        cls, waveform: np.ndarray, sample_rate: int, name: str = "the waveform"
    ) -> "Source":
        """Read an array (channels, samples) of finite numbers.

        Raises:
            UserError: the sample rate is no whole number of Hz that is read.
        """
        sample_rate = whole_rate(sample_rate)

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, waveform.shape[1], BLOCK_FRAMES):
                block = waveform[:, start : start + BLOCK_FRAMES]
                yield np.asarray(block, dtype=np.float32)

        return cls(name, sample_rate, waveform.shape[1], len(waveform), blocks)

    @cached_property
    def mix(self) -> Mix | None:
        """How its channels become one, found in a first pass; None if it has only one."""
        return mix_of(self.open()) if self.num_channels > 1 else None

    def resampled(
        self, sample_rate: int, mono: bool, through: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield all of it at another sample rate (Hz), in (channels, n) blocks.

        Args:
            sample_rate: of the blocks, in Hz.
            mono: mix the channels to one, by `mix`.
            through: a sample rate in Hz that it goes through on its way, which takes away what
                that cannot hold.
        """
        mix = self.mix if mono else None
        num_channels = 1 if mono else self.num_channels
        steps = steps_between(self.sample_rate, through, sample_rate)
        resamplers = [StreamResampler(*step, num_channels) for step in steps]
        num_read = 0
        for block in self.open():
            num_read += block.shape[1]
            self.level.add(block)
            mixed = block if mix is None else mix.apply(block)
            for resampler in resamplers:
                mixed = resampler.push(mixed, last=num_read == self.num_frames)
            yield mixed


def steps_between(rate_in: int, through: int | None, rate_out: int) -> list[tuple[int, int]]:
    """Return the changes from a sample rate to another, through a third where one is given."""
    return list(pairwise(rate for rate in (rate_in, through, rate_out) if rate is not None))


PEAK = 0.9
"""The magnitude of the loudest sample with `level=peak`."""


class Sink(Protocol):
    """Receives one signal in blocks; ends with `close` or `abort`."""

    def write(self, block: np.ndarray) -> None:
        """Append (channels, n) float32."""

    def restart(self) -> None:
        """Discard what was written; another signal comes instead."""

    def close(self) -> None:
        """Finish and keep what was written."""

    def abort(self) -> None:
        """Discard what was written."""


class ArraySink:
    """Collects the blocks in memory."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    @property
    def waveform(self) -> np.ndarray:
        """(channels, samples) float32."""
        return np.concatenate(self._blocks, axis=1)

    def write(self, block: np.ndarray) -> None:
        """Append a block."""
        self._blocks.append(block)

    def take(self, num_channels: int) -> np.ndarray:
        """Return the blocks so far, (channels, samples) float32, which may be none; drop them."""
        taken = [np.zeros((num_channels, 0), np.float32), *self._blocks]
        self._blocks.clear()
        return np.concatenate(taken, axis=1)

    def restart(self) -> None:
        """Discard the blocks."""
        self._blocks.clear()

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Discard the blocks."""
        self._blocks.clear()


class EncodingSink(ABC):
    """Encodes a signal; the base of `FileSink` and `MemorySink`.

    Args:
        sample_rate: in Hz.
        format: "wav" or "flac".
        subtype: soundfile's name of the sample format, such as "PCM_16".

    Attributes:
        num_clipped: number of samples beyond full scale that an integer subtype clips.
        level: of the encoded signal, clipped as it is.
        data: the encoded file, after `close`; empty if it is on a disk.
    """

    _writer: AudioWriter | MemoryWriter | None = None
    data = b""

    def __init__(self, sample_rate: int, format: str, subtype: str) -> None:
        self.num_clipped, self.level = 0, Level()
        self._sample_rate, self._format, self._subtype = sample_rate, format, subtype

    def write(self, block: np.ndarray) -> None:
        """Append a block (channels, n).

        Raises:
            AudioError: the block cannot be written.
        """
        if self._writer is None:
            self._writer = self._create(len(block))
        num_clipped = self._writer.write(block)
        self.num_clipped += num_clipped
        self.level.add(np.clip(block, -1.0, 1.0) if num_clipped else block)

    def restart(self) -> None:
        """Discard what was written, and begin again."""
        self.abort()
        self._writer = None
        self.num_clipped, self.level = 0, Level()

    @abstractmethod
    def close(self) -> None:
        """Finish and keep what was written."""

    @abstractmethod
    def abort(self) -> None:
        """Discard what was written."""

    @abstractmethod
    def _create(self, num_channels: int) -> AudioWriter | MemoryWriter:
        """Return what encodes."""


class FileSink(EncodingSink):
    """Writes a file; it gets its name when it is complete. The first block creates its folders.

    Args:
        path: of the file.
        sample_rate: in Hz.
        format: "wav" or "flac".
        subtype: soundfile's name of the sample format, such as "PCM_16".

    Attributes:
        threads: where it waits for the disk, so that `close` need not; None: `close` does.
    """

    _writer: AudioWriter | None = None
    threads: Executor | None = None
    _settling: Future[None] | None = None

    def __init__(self, path: Path, sample_rate: int, format: str, subtype: str) -> None:
        super().__init__(sample_rate, format, subtype)
        self.path = path

    def close(self) -> None:
        """Flush, check and rename; with `threads`, that is begun.

        Raises:
            AudioError: the file cannot be written.
        """
        if self._writer is None:
            return
        if self.threads is None:
            self._writer.finish()
        else:
            self._settling = self.threads.submit(self._writer.finish)

    @property
    def is_settled(self) -> bool:
        """Whether what `close` begins has come to its end."""
        return self._settling is None or self._settling.done()

    @property
    def num_bytes(self) -> int:
        """Size of the file, once it is whole; it may be moved away from then on."""
        return 0 if self._writer is None else self._writer.num_bytes

    def settle(self) -> None:
        """Wait for that end.

        Raises:
            AudioError: the file cannot be written.
        """
        if self._settling is not None:
            self._settling.result()

    def abort(self) -> None:
        """Remove the unfinished file."""
        if self._writer is not None:
            self._writer.discard()

    def _create(self, num_channels: int) -> AudioWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refusal = name_refusal(error)
            if refusal is None:
                raise
            raise RefusedName(f"{printable(self.path)} cannot be written: {refusal}") from error
        return AudioWriter(self.path, self._sample_rate, num_channels, self._format, self._subtype)


class MemorySink(EncodingSink):
    """Writes an audio file into memory.

    Args:
        name: for messages.
        sample_rate: in Hz.
        format: "wav" or "flac".
        subtype: soundfile's name of the sample format, such as "PCM_16".
    """

    _writer: MemoryWriter | None = None

    def __init__(self, name: str, sample_rate: int, format: str, subtype: str) -> None:
        super().__init__(sample_rate, format, subtype)
        self._name = name

    def close(self) -> None:
        """Check the file and keep it."""
        if self._writer is not None:
            self.data = self._writer.finish()

    def abort(self) -> None:
        """Discard what was written."""
        self._writer = None

    def _create(self, num_channels: int) -> MemoryWriter:
        return MemoryWriter(
            self._name, self._sample_rate, num_channels, self._format, self._subtype
        )


class PeakSink:
    """Scales a whole signal to a fixed peak and passes it on, in constant memory.

    The signal is stored in an unnamed temporary file, which disappears with the process.

    Args:
        sink: receives the scaled signal.
        directory: for the temporary file; needs space for the signal as float32.
    """

    def __init__(self, sink: Sink, directory: Path | None = None) -> None:
        self._sink = sink
        self._peak = 0.0
        self._num_channels = 1
        self._waiting = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - open until close or abort
            max_size=1 << 25, dir=None if directory is None else str(directory)
        )

    def write(self, block: np.ndarray) -> None:
        """Append a block (channels, n)."""
        self._num_channels = len(block)
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._waiting.write(np.ascontiguousarray(block.T, dtype=np.float32).tobytes())

    def restart(self) -> None:
        """Discard the signal; nothing was passed on."""
        self._waiting.seek(0)
        self._waiting.truncate()
        self._peak = 0.0

    def close(self) -> None:
        """Pass the scaled signal on; a silent signal is not scaled."""
        gain = PEAK / self._peak if self._peak > 0 else 1.0
        for block in self._blocks():
            self._sink.write(block * np.float32(gain))
        self._waiting.close()
        self._sink.close()

    def abort(self) -> None:
        """Discard the signal."""
        self._waiting.close()
        self._sink.abort()

    def _blocks(self) -> Iterator[np.ndarray]:
        self._waiting.seek(0)
        while data := self._waiting.read(4 * self._num_channels * BLOCK_FRAMES):
            yield np.frombuffer(data, dtype=np.float32).reshape(-1, self._num_channels).T
