"""Read audio files through soundfile, so that nothing is missing without an error.

A handle belongs to the thread that opened it: libsndfile handles must not be shared.

libsndfile reads a truncated WAV, AIFF or Ogg file without an error, as if its end were the true
end. So the lengths in the container are compared with the size of the file (`missing_bytes`).
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

_TAIL_FRAMES = 1024
_BLOCK_FRAMES = 1 << 16
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's answer when a FLAC header leaves its length open


class AudioError(UserError):
    """A file that cannot be read or written as audio; the message names it and says why."""


@dataclass(frozen=True)
class AudioInfo:
    """What an audio file holds: rate in Hz, length in frames, and soundfile's format names."""

    sample_rate: int
    num_frames: int
    num_channels: int
    format: str
    subtype: str


@dataclass(frozen=True)
class Encoded:
    """An audio file in memory, with a name for messages."""

    name: str
    data: bytes


AudioFile = str | Path | Encoded
"""What can be read: a path, or a file in memory."""


def shown(file: AudioFile) -> str:
    """Return a file's path, or its name in memory, for a message (see `printable`)."""
    return printable(file.name if isinstance(file, Encoded) else file)


def read_header(path: AudioFile) -> AudioInfo:
    """Read what a file's header says, without decoding.

    Raises:
        AudioError: not readable, not audio, no frames, or fewer bytes than the header announces.
    """
    with _open(path) as file:
        return _info(path, file)


def probe(path: AudioFile) -> AudioInfo:
    """Read the header and decode the last frames, so that a truncated file shows.

    Raises:
        AudioError: not readable, not audio, no frames, or truncated.
    """
    with _open(path) as file:
        info = _info(path, file)
        start = max(0, info.num_frames - _TAIL_FRAMES)
        _seek(path, file, start)
        _read_exactly(path, file, start, info.num_frames - start)
        return info


def read(path: AudioFile, start: int = 0, num_frames: int | None = None) -> tuple[np.ndarray, int]:
    """Read a part of a file.

    Args:
        path: a file in any format that soundfile knows.
        start: first frame, in the file's own frames.
        num_frames: how many; the rest of the file if None.

    Returns:
        Waveform (channels, frames) float32, and the sample rate in Hz.

    Raises:
        AudioError: not readable, shorter than asked, or NaN or Inf among the samples.
    """
    with _open(path) as file:
        info = _info(path, file)
        if num_frames is None:
            num_frames = info.num_frames - start
        if start < 0 or num_frames < 0 or start + num_frames > info.num_frames:
            raise AudioError(
                f"{shown(path)} has {info.num_frames} frames; "
                f"frames {start} to {start + num_frames} were asked for"
            )
        _seek(path, file, start)
        block = _read_exactly(path, file, start, num_frames)
    check_finite(path, block, start)
    return block, info.sample_rate


class AudioReader(AbstractContextManager["AudioReader"]):
    """A file read from its start in blocks, in constant memory.

    Attributes:
        info: what the header says.

    Raises:
        AudioError: on construction, if the file is not readable or holds no frames.
    """

    def __init__(self, path: AudioFile) -> None:
        self._path = path
        self._file = _open(path)
        try:
            self.info = _info(path, self._file)
        except AudioError:
            self._file.close()
            raise

    def blocks(
        self, block_frames: int, start: int = 0, num_frames: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield all or a part: (channels, n) float32, n = `block_frames` but for the last.

        Args:
            block_frames: of each block.
            start: first frame.
            num_frames: how many; the rest of the file if None.

        Raises:
            AudioError: the file ends early, or NaN or Inf among the samples.
        """
        end = self.info.num_frames if num_frames is None else start + num_frames
        if start:
            _seek(self._path, self._file, start)
        for first in range(start, end, block_frames):
            block = _read_exactly(self._path, self._file, first, min(block_frames, end - first))
            check_finite(self._path, block, first)
            yield block

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _open(path: AudioFile) -> soundfile.SoundFile:
    try:
        with _raw(path) as raw:  # also because soundfile would hide the system's reason
            missing = missing_bytes(raw)
        if missing:
            raise AudioError(f"{shown(path)} is truncated: its last {missing} bytes are missing")
        if isinstance(path, Encoded):
            return soundfile.SoundFile(io.BytesIO(path.data))
        return soundfile.SoundFile(os.fsencode(path))  # bytes: names need not be UTF-8
    except OSError as error:
        raise AudioError(f"{shown(path)}: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{shown(path)} cannot be opened as audio: {error.error_string}"
        ) from error


def _raw(path: AudioFile) -> BinaryIO:
    return io.BytesIO(path.data) if isinstance(path, Encoded) else open(path, "rb")


def _info(path: AudioFile, file: soundfile.SoundFile) -> AudioInfo:
    if file.frames <= 0:
        raise AudioError(f"{shown(path)} holds no audio frames")
    if file.frames == _UNKNOWN_FRAMES:
        raise AudioError(f"{shown(path)}: its header does not give its length; re-encode it")
    return AudioInfo(file.samplerate, file.frames, file.channels, file.format, file.subtype)


def _seek(path: AudioFile, file: soundfile.SoundFile, start: int) -> None:
    try:
        if file.seekable():
            file.seek(start)
            return
    except soundfile.SoundFileError as error:
        raise AudioError(f"{shown(path)} is damaged before frame {start}: {error}") from error
    for skipped in range(0, start, _BLOCK_FRAMES):  # GSM in WAV, for one
        _read_exactly(path, file, skipped, min(_BLOCK_FRAMES, start - skipped))


def _read_exactly(
    path: AudioFile, file: soundfile.SoundFile, start: int, num_frames: int
) -> np.ndarray:
    try:
        block = file.read(num_frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{shown(path)} is damaged after frame {start}: {error}") from error
    if len(block) < num_frames:
        raise AudioError(
            f"{shown(path)} is truncated: its header says {file.frames} frames, "
            f"it ends after {start + len(block)}"
        )
    return np.ascontiguousarray(block.T)


def check_finite(path: AudioFile, block: np.ndarray, start: int) -> None:
    """Refuse a block (channels, n) with NaN or Inf; `start` is its place in the file.

    Raises:
        AudioError: naming the first such frame.
    """
    if not np.isfinite(block).all():
        frame = start + int(np.flatnonzero(~np.isfinite(block).all(axis=0))[0])
        raise AudioError(f"{shown(path)} holds NaN or Inf at frame {frame}")


_OPEN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""Values of a RIFF size field that mean "unknown"; ffmpeg and sox write them into a pipe."""

_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_MAX_OGG_PAGE = 27 + 255 + 255 * 255


def missing_bytes(file: BinaryIO) -> int:
    """Count the bytes that the container promises and the file does not have.

    Args:
        file: opened for reading in binary; its position changes.

    Returns:
        Missing bytes of the sample data (WAV, RF64, AIFF, CAF) or of the last page (Ogg). 0 for a
        complete file, for a file whose header does not know its length, and for other formats,
        whose decoders notice by themselves.
    """
    file_size = file.seek(0, 2)
    file.seek(0)
    magic = file.read(12)
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
        data_end = _riff_data_end(file, file_size)
    elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        data_end = _aiff_data_end(file, file_size)
    elif magic[:4] == b"caff":
        data_end = _caf_data_end(file, file_size)
    elif magic[:4] == b"OggS":
        data_end = _last_ogg_page_end(file, file_size)
    else:
        data_end = 0
    return max(0, data_end - file_size)


def _riff_data_end(file: BinaryIO, file_size: int) -> int:
    long_size = None
    for name, start, size in _chunks(file, file_size, "<4sI"):
        if name == b"ds64":
            long_size = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"data":
            if long_size is not None:
                return start + long_size
            return 0 if size in _OPEN_SIZES else start + size
    return 0


def _aiff_data_end(file: BinaryIO, file_size: int) -> int:
    for name, start, size in _chunks(file, file_size, ">4sI"):
        if name == b"SSND":
            return start + size
    return 0


def _caf_data_end(file: BinaryIO, file_size: int) -> int:
    position = 8
    while position + 12 <= file_size:
        file.seek(position)
        name, size = struct.unpack(">4sq", file.read(12))
        position += 12 + size
        if name == b"data" or size < 0:  # -1 is an open length
            return 0 if size < 0 else position
    return 0


def _chunks(file: BinaryIO, file_size: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, size) of each chunk, with the file positioned at its start."""
    position = 12
    while position + 8 <= file_size:
        file.seek(position)
        name, size = struct.unpack(layout, file.read(8))
        yield name, position + 8, size
        position += 8 + size + size % 2


def _last_ogg_page_end(file: BinaryIO, file_size: int) -> int:
    tail_start = max(0, file_size - _MAX_OGG_PAGE)
    file.seek(tail_start)
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return 0
    if len(tail) < page + _OGG_HEADER.size:
        return tail_start + page + _OGG_HEADER.size
    num_segments = _OGG_HEADER.unpack_from(tail, page)[-1]
    segments = tail[page + _OGG_HEADER.size :][:num_segments]
    return tail_start + page + _OGG_HEADER.size + num_segments + sum(segments)
