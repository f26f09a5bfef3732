"""Read audio files through soundfile, so that nothing is missing without an error.

A handle belongs to the thread that opened it: libsndfile handles must not be shared.

Whatever a file does to its decoder ends as an `AudioError`: files come from anywhere.
"""

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from open_miipher.audio.containers import JOINED, Extent, extent_of, problem_inside
from open_miipher.audio.ffmpeg import FfmpegFile
from open_miipher.audio.formats import SAMPLE_BYTES, SAMPLE_RATES
from open_miipher.audio.kinds import FFMPEG_EXTENSIONS, UNREAD_EXTENSIONS
from open_miipher.base.amounts import duration
from open_miipher.base.content import HEAD_BYTES, MEDIA, describe
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

_TAIL_FRAMES = 1024
_BLOCK_FRAMES = 1 << 16
_BLOCK_SAMPLES = 1 << 24  # allocated at once: what a damaged header announces may not exist
_BAD_FILE = 7  # libsndfile's error
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
    file, info = _open(path)
    file.close()
    return info


def probe(path: AudioFile) -> AudioInfo:
    """Read the header and decode the last frames, so that a truncated file shows.

    All pages of an Ogg file are looked at: one with a wrong checksum would be left out in silence.

    Raises:
        AudioError: not readable, not audio, no frames, truncated, or several files joined.
    """
    file, info = _open(path)
    with file:
        with _raw(path) as raw:
            problem = problem_inside(raw)
        if problem is not None:
            raise AudioError(f"{shown(path)} {problem}")
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
    file, info = _open(path)
    with file:
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
        info: as from `read_header`.

    Raises:
        AudioError: on construction, if the file is not readable or holds no frames.
    """

    def __init__(self, path: AudioFile) -> None:
        self._path = path
        self._file, self.info = _open(path)

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


class _Memory(io.BytesIO):
    """Bytes in which a decoder of a damaged file may seek anywhere, as it may in a file."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1  # an exception inside libsndfile would be printed, and not raised


def _raw(path: AudioFile) -> BinaryIO:
    return _Memory(path.data) if isinstance(path, Encoded) else open(path, "rb")


def _open(path: AudioFile) -> tuple[soundfile.SoundFile | FfmpegFile, AudioInfo]:
    try:
        with _raw(path) as raw:  # also because soundfile would hide the system's reason
            extent = extent_of(raw)
    except OSError as error:
        reason = error.strerror or "it is a pipe, and a recording is read more than once"
        raise AudioError(f"{shown(path)}: {reason}") from error
    if extent.missing:
        raise AudioError(f"{shown(path)} is truncated: its last {extent.missing} bytes are missing")
    if extent.joined:
        raise AudioError(f"{shown(path)} {JOINED}")
    try:
        file = _decoder(path)
    except _DECODER_ERRORS as error:
        says = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        if getattr(error, "code", None) == _BAD_FILE:  # "does not exist", of an MP3 for one
            says = "no audio is found in it"
        content, is_media = _content(path), _is_media(path)
        if content is not None and not is_media:
            says = f"it is {content}"
        if _extension(path) in UNREAD_EXTENSIONS and (content is None or content in MEDIA):
            says = f"{says}; convert it, with ffmpeg for one"
        raise AudioError(f"{shown(path)} cannot be opened as audio: {says}") from error
    info = AudioInfo(file.samplerate, file.frames, file.channels, file.format, file.subtype)
    if extent.num_bytes and info.subtype in SAMPLE_BYTES:  # of a W64, all that follows is decoded
        whole_frames = extent.num_bytes // (SAMPLE_BYTES[info.subtype] * info.num_channels)
        info = replace(info, num_frames=min(info.num_frames, whole_frames))
    problem = _problem(info, extent)
    if problem is not None:
        file.close()
        raise AudioError(f"{shown(path)} {problem}")
    return file, info


def _decoder(path: AudioFile) -> soundfile.SoundFile | FfmpegFile:
    """Open what ffmpeg reads, by its name or else its content, and all else with libsndfile."""
    kind = _extension(path)
    # Of an MP3, libsndfile's decoder takes anything for sound.
    if kind in FFMPEG_EXTENSIONS or (kind == "mp3" and _is_media(path)):
        return FfmpegFile(_raw(path), kind)
    try:
        if isinstance(path, Encoded):
            return soundfile.SoundFile(_Memory(path.data))
        return soundfile.SoundFile(os.fsencode(path))  # as bytes: a name may be no UTF-8
    except _DECODER_ERRORS:
        if _is_media(path):
            return FfmpegFile(_raw(path), kind)
        raise


def _is_media(path: AudioFile) -> bool:
    """Whether ffmpeg reads a file by its content, and it is not of a kind that is encrypted."""
    return _extension(path) not in UNREAD_EXTENSIONS and _content(path) in MEDIA


def _content(path: AudioFile) -> str | None:
    with _raw(path) as raw:
        return describe(raw.read(HEAD_BYTES))


def _extension(path: AudioFile) -> str:
    name = path.name if isinstance(path, Encoded) else str(path)
    return os.path.splitext(name)[1][1:].lower()


def _problem(info: AudioInfo, extent: Extent) -> str | None:
    """Say why a file is not read that libsndfile would read."""
    mend = "write it anew, a WAV for example with: ffmpeg -ignore_length 1 -i IN OUT.flac"
    if extent.unread and not (extent.num_bytes and info.num_frames > 0):
        return (
            f"has no length in its header: its recorder did not count the {extent.unread} bytes "
            f"of audio behind it; {mend}"
        )
    if extent.unread and extent.num_bytes:
        counted = info.num_frames / max(1, info.sample_rate)
        whole = counted * (1 + extent.unread / extent.num_bytes)
        return (
            f"holds {duration(counted)} of audio by its header and {duration(whole)} by its size, "
            f"as from a recorder that broke off or beyond 4 GiB; {mend}"
        )
    if info.num_frames <= 0:
        return "holds no audio frames"
    if info.num_frames == _UNKNOWN_FRAMES:
        return "does not give its length in its header; re-encode it"
    low, high = SAMPLE_RATES
    if not low <= info.sample_rate <= high:
        return f"has a sample rate of {info.sample_rate} Hz by its header; {low} to {high} are read"
    return None


_DECODER_ERRORS = (soundfile.SoundFileError, ValueError, OverflowError)
"""What soundfile raises on damaged files; the latter two where counts make no sense."""


@contextmanager
def _decoding(path: AudioFile, where: str) -> Iterator[None]:
    try:
        yield
    except _DECODER_ERRORS as error:
        raise AudioError(f"{shown(path)} is damaged {where}: {error}") from error


def _seek(path: AudioFile, file: soundfile.SoundFile | FfmpegFile, start: int) -> None:
    if not file.seekable():  # GSM in WAV, for one
        for skipped in range(0, start, _BLOCK_FRAMES):
            _read_exactly(path, file, skipped, min(_BLOCK_FRAMES, start - skipped))
        return
    with _decoding(path, f"before frame {start}"):
        reached = file.seek(start)
        if (reached, file.tell()) != (start, start):
            raise ValueError(f"its decoder went to frame {file.tell()}")


def _read_exactly(
    path: AudioFile, file: soundfile.SoundFile | FfmpegFile, start: int, num_frames: int
) -> np.ndarray:
    """Return (channels, num_frames) float32 from frame `start` on, where the file stands."""
    blocks, most = [], max(1, _BLOCK_SAMPLES // file.channels)
    # Of 16 bits, libsndfile makes the same floats, in seven times the time.
    kind = "int16" if file.subtype == "PCM_16" else "float32"
    for first in range(start, start + num_frames, most):
        wanted = min(most, start + num_frames - first)
        with _decoding(path, f"after frame {first}"):
            block = file.read(wanted, dtype=kind, always_2d=True)
        if len(block) < wanted:
            raise AudioError(
                f"{shown(path)} is truncated: its header says {file.frames} frames, "
                f"it ends after {first + len(block)}"
            )
        if kind == "int16":
            block = block * np.float32(2**-15)
        blocks.append(np.ascontiguousarray(block.T))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


LARGEST_SAMPLE = 2.0**32
"""More than any integer sample has that someone wrote as a float; beyond it squares overflow."""


def check_finite(path: AudioFile, block: np.ndarray, start: int) -> float:
    """Refuse a block (channels, n) with NaN, Inf or absurd numbers; `start` is its place.

    Returns:
        The largest magnitude in it.

    Raises:
        AudioError: naming the first such frame.
    """
    loudest = max(float(block.max(initial=0.0)), -float(block.min(initial=0.0)))  # NaN of NaN
    if loudest <= LARGEST_SAMPLE:
        return loudest
    are_fine = np.abs(block) <= LARGEST_SAMPLE
    frame = int(np.flatnonzero(~are_fine.all(axis=0))[0])
    is_finite = np.isfinite(block[:, frame]).all()
    what = f"the number {np.abs(block[:, frame]).max():.3g}" if is_finite else "NaN or Inf"
    raise AudioError(f"{shown(path)} holds {what} at frame {start + frame}")
