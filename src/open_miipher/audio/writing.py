"""Write audio files through soundfile: whole under their name, or not at all."""

import os
from contextlib import AbstractContextManager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from open_miipher.audio.reading import AudioError, check_finite, printable, read_header

WAV_BYTE_LIMIT = 2**32 - 2**16
"""A WAV file's sizes are 32 bits wide; whatever would pass this is written as RF64."""

_BLOCK_FRAMES = 1 << 16


class AudioWriter(AbstractContextManager["AudioWriter"]):
    """A file written in blocks under a temporary name beside it, and renamed once it is whole.

    Leaving the `with` block without an error flushes to the disk, reads the frame count back and
    renames; an error removes the temporary file and leaves an older file of that name alone.
    A WAV that grows past 4 GiB is copied into an RF64 file and goes on there.

    Args:
        path: the file to make; its directory exists.
        sample_rate: Hz.
        num_channels: rows of every block.
        format: "wav" or "flac".
        subtype: soundfile's name ("PCM_16", "PCM_24", "FLOAT", …); PCM_16 if None. All but
            FLOAT and DOUBLE clip at ±1.

    Raises:
        AudioError: the format cannot be written so, or the disk refuses.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int,
        num_channels: int,
        format: str = "wav",
        subtype: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._temporary = _temporary_path(self._path)
        self._sample_rate, self._num_channels = sample_rate, num_channels
        self._format, self._subtype = format.upper(), subtype or "PCM_16"
        self._num_frames = 0
        if self._format not in ("WAV", "FLAC") or not soundfile.check_format(
            self._format, self._subtype
        ):
            raise AudioError(
                f"{printable(path)}: cannot write format {format!r} with subtype {subtype!r}"
            )
        self._file = self._create(self._format)

    def write(self, block: np.ndarray) -> None:
        """Append a block.

        Args:
            block: (channels, n) float, full scale ±1.

        Raises:
            AudioError: another number of channels, NaN or Inf, or the disk refuses.
        """
        if block.ndim != 2 or block.shape[0] != self._num_channels:
            raise AudioError(
                f"{printable(self._path)}: a block of shape {block.shape} does not have "
                f"{self._num_channels} channels"
            )
        check_finite(self._path, block, self._num_frames)
        if self._subtype not in ("FLOAT", "DOUBLE"):
            block = np.clip(block, -1.0, 1.0)  # libsndfile clips PCM, and wraps A-law and µ-law
        try:
            most = self._temporary.stat().st_size + 8 * block.size  # no subtype takes more bytes
            if self._format == "WAV" and most > WAV_BYTE_LIMIT:
                self._continue_as_rf64()
            self._file.write(block.T)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._refused(error) from error
        self._num_frames += block.shape[1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            with suppress(soundfile.SoundFileError):  # the reason is on its way already
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        if not self._num_frames:
            raise AudioError(f"{printable(self._path)}: no frames were written")
        try:
            self._file.close()
            with open(self._temporary, "rb") as written:
                os.fsync(written.fileno())
            found = read_header(self._temporary).num_frames
            if found != self._num_frames:
                raise AudioError(
                    f"{printable(self._path)}: wrote {self._num_frames} frames "
                    f"but the file holds {found}"
                )
            os.replace(self._temporary, self._path)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._refused(error) from error

    def _create(self, format: str) -> soundfile.SoundFile:
        try:
            self._temporary.open("wb").close()  # soundfile would hide the system's reason
            return soundfile.SoundFile(
                os.fsencode(self._temporary),
                "w",
                self._sample_rate,
                self._num_channels,
                self._subtype,
                format=format,
            )
        except (OSError, soundfile.SoundFileError) as error:
            refused = self._refused(error)
            self._temporary.unlink(missing_ok=True)
            raise refused from error

    def _continue_as_rf64(self) -> None:
        self._file.close()
        plain = self._temporary.with_suffix(".plain.tmp")
        os.replace(self._temporary, plain)
        try:
            self._format = "RF64"
            self._file = self._create("RF64")
            with soundfile.SoundFile(os.fsencode(plain)) as source:
                # float64 holds every subtype exactly, so the copy is bit for bit
                for block in source.blocks(_BLOCK_FRAMES, dtype="float64", always_2d=True):
                    self._file.write(block)
        finally:
            plain.unlink(missing_ok=True)

    def _refused(self, error: Exception) -> AudioError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        with suppress(OSError):  # libsndfile keeps the system's reason to itself: ask the disk
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize < 1 << 16:
                reason = "no space left on its disk"
        return AudioError(f"{printable(self._path)} cannot be written: {reason}")


def _temporary_path(path: Path) -> Path:
    name = path.name
    if len(os.fsencode(name)) > 200:  # a file name has room for 255 bytes
        name = sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.{os.getpid()}.tmp")
