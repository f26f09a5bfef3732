"""Where audio comes from, and where restored audio goes: files, arrays, memory; in blocks."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from open_miipher.audio.io import (
    AudioError,
    AudioFile,
    AudioInfo,
    AudioReader,
    AudioWriter,
    MemoryWriter,
    shown,
)
from open_miipher.audio.resample import StreamResampler

BLOCK_FRAMES = 1 << 16


@dataclass(frozen=True)
class Source:
    """Audio that can be read from its start any number of times.

    Attributes:
        name: for messages.
        sample_rate: Hz.
        num_frames: per channel.
        num_channels: of the source.
        open: starts over and gives all frames in blocks (channels, n) float32.
    """

    name: str
    sample_rate: int
    num_frames: int
    num_channels: int
    open: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def from_file(
        cls, file: AudioFile, info: AudioInfo, start: int = 0, num_frames: int | None = None
    ) -> "Source":
        """Read a file, or a part of one, that was probed before.

        Args:
            file: a path, or a file in memory.
            info: what the probe found.
            start: first frame.
            num_frames: how many; the rest if None.

        Raises:
            AudioError: while reading: the file is damaged, or is not the one that was probed.
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
        """Read an array (channels, samples) of finite numbers."""

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, waveform.shape[1], BLOCK_FRAMES):
                block = waveform[:, start : start + BLOCK_FRAMES]
                yield np.asarray(block, dtype=np.float32)

        return cls(name, sample_rate, waveform.shape[1], len(waveform), blocks)

    def resampled(self, sample_rate: int, mono: bool) -> Iterator[np.ndarray]:
        """Give all of it at another rate, as (channels, n) blocks; `mono` is the channels' mean."""
        num_channels = 1 if mono else self.num_channels
        resampler = StreamResampler(self.sample_rate, sample_rate, num_channels)
        num_read = 0
        for block in self.open():
            num_read += block.shape[1]
            mixed = block.mean(axis=0, keepdims=True) if mono else block
            yield resampler.push(mixed, last=num_read == self.num_frames)


PEAK = 0.9
"""What `level=peak` brings the loudest sample to."""


class Sink(Protocol):
    """Takes one signal in blocks; ends with `close` or `abort`."""

    def write(self, block: np.ndarray) -> None:
        """Append (channels, n) float32."""

    def close(self) -> None:
        """Keep what was written; nothing follows."""

    def abort(self) -> None:
        """Throw away what was written."""


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

    def close(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """Forget the blocks."""
        self._blocks.clear()


class EncodingSink:
    """Encodes what it is given; the base of `FileSink` and `MemorySink`.

    Args:
        sample_rate: Hz.
        format: "wav" or "flac".
        subtype: soundfile's name.

    Attributes:
        num_clipped: samples beyond full scale, which an integer subtype cannot hold.
    """

    _writer: AudioWriter | MemoryWriter | None = None

    def __init__(self, sample_rate: int, format: str, subtype: str) -> None:
        self.num_clipped = 0
        self._sample_rate, self._format, self._subtype = sample_rate, format, subtype
        self._holds_any_value = subtype in ("FLOAT", "DOUBLE")

    def write(self, block: np.ndarray) -> None:
        """Append a block (channels, n).

        Raises:
            AudioError: it cannot be written.
        """
        if self._writer is None:
            self._writer = self._create(len(block))
        if not self._holds_any_value:
            self.num_clipped += int(np.count_nonzero(np.abs(block) > 1.0))
        self._writer.write(block)

    def close(self) -> None:
        """Keep what was written."""
        raise NotImplementedError

    def abort(self) -> None:
        """Throw away what was written."""
        raise NotImplementedError

    def _create(self, num_channels: int) -> AudioWriter | MemoryWriter:
        raise NotImplementedError


class FileSink(EncodingSink):
    """Writes a file, which takes its name once it is whole; made with its folders on first use.

    Args:
        path: of the file.
        sample_rate: Hz.
        format: "wav" or "flac".
        subtype: soundfile's name.
    """

    _writer: AudioWriter | None = None

    def __init__(self, path: Path, sample_rate: int, format: str, subtype: str) -> None:
        super().__init__(sample_rate, format, subtype)
        self.path = path

    def close(self) -> None:
        """Flush, check and rename.

        Raises:
            AudioError: the disk refuses.
        """
        if self._writer is not None:
            self._writer.__exit__(None, None, None)

    def abort(self) -> None:
        """Remove the unfinished file."""
        if self._writer is not None:
            self._writer.__exit__(AudioError, AudioError("given up"), None)

    def _create(self, num_channels: int) -> AudioWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return AudioWriter(self.path, self._sample_rate, num_channels, self._format, self._subtype)


class MemorySink(EncodingSink):
    """Writes an audio file into memory.

    Args:
        name: for messages.
        sample_rate: Hz.
        format: "wav" or "flac".
        subtype: soundfile's name.

    Attributes:
        data: the file, once it is closed.
    """

    _writer: MemoryWriter | None = None

    def __init__(self, name: str, sample_rate: int, format: str, subtype: str) -> None:
        super().__init__(sample_rate, format, subtype)
        self._name = name
        self.data = b""

    def close(self) -> None:
        """Check the file and keep it."""
        if self._writer is not None:
            self.data = self._writer.finish()

    def abort(self) -> None:
        """Forget what was written."""
        self._writer = None

    def _create(self, num_channels: int) -> MemoryWriter:
        return MemoryWriter(
            self._name, self._sample_rate, num_channels, self._format, self._subtype
        )


class PeakSink:
    """Brings a whole signal to a fixed peak before it goes on, in constant memory.

    The signal waits in a nameless temporary file, which ends with the process.

    Args:
        sink: takes the scaled signal.
        directory: with room for the signal as float32.
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

    def close(self) -> None:
        """Pass the scaled signal on; silence stays as it is."""
        gain = PEAK / self._peak if self._peak > 0 else 1.0
        for block in self._blocks():
            self._sink.write(block * np.float32(gain))
        self._waiting.close()
        self._sink.close()

    def abort(self) -> None:
        """Forget the signal."""
        self._waiting.close()
        self._sink.abort()

    def _blocks(self) -> Iterator[np.ndarray]:
        self._waiting.seek(0)
        while data := self._waiting.read(4 * self._num_channels * BLOCK_FRAMES):
            yield np.frombuffer(data, dtype=np.float32).reshape(-1, self._num_channels).T
