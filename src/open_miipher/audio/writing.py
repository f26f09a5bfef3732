"""Write audio files through soundfile: whole under their name, or not at all; or into memory."""

import errno
import io
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import soundfile

from open_miipher.audio.reading import AudioError, Encoded, check_finite, read_header
from open_miipher.base.atomic import name_refusal, put_in_place, temporary_path
from open_miipher.base.paths import printable

WAV_BYTE_LIMIT = 2**32 - 2**16
"""A WAV file's sizes are 32 bits wide; whatever would pass this is written as RF64."""

_BLOCK_FRAMES = 1 << 16
_ADD_PEAK_CHUNK = 0x1050  # of sndfile.h; soundfile has no name for it
_MAX_PATH_BYTES = 1023  # that libsndfile takes
_PROBE_BYTES = 1 << 16  # a disk that takes no more is asked for its reason by so many


class RefusedName(AudioError):
    """An output whose name its file system refuses; others may be fine."""


class _Encoder(ABC):
    """Checks the blocks of one audio file, counts their frames, and has them encoded.

    Args:
        name: of the file, for messages.
        num_channels: rows of every block.
        format: "wav" or "flac".
        subtype: soundfile's name; PCM_16 if None.
    """

    def __init__(
        self, name: str | Path, num_channels: int, format: str, subtype: str | None
    ) -> None:
        self._name = name
        self._num_channels = num_channels
        self._format, self._subtype = format.upper(), subtype or "PCM_16"
        self._num_frames = 0
        if self._format not in ("WAV", "FLAC") or not soundfile.check_format(
            self._format, self._subtype
        ):
            raise AudioError(
                f"{printable(name)}: cannot write format {format!r} with subtype {subtype!r}"
            )

    def write(self, block: np.ndarray) -> int:
        """Append a block.

        Args:
            block: (channels, n) float, full scale ±1.

        Returns:
            How many samples beyond full scale are clipped.

        Raises:
            AudioError: another number of channels, NaN or Inf, or it cannot be written.
        """
        if block.ndim != 2 or block.shape[0] != self._num_channels:
            raise AudioError(
                f"{printable(self._name)}: a block of shape {block.shape} does not have "
                f"{self._num_channels} channels"
            )
        loudest = check_finite(self._name, block, self._num_frames)
        num_clipped = 0
        if self._subtype not in ("FLOAT", "DOUBLE"):
            if loudest > 1:  # libsndfile clips PCM, and wraps A-law and µ-law
                num_clipped = int(np.count_nonzero(np.abs(block) > 1))
                block = np.clip(block, -1.0, 1.0)
            if self._subtype == "PCM_16":
                block = _as_int16(block, loudest)
        try:
            self._encode(block)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._refused(error) from error
        self._num_frames += block.shape[1]
        return num_clipped

    @abstractmethod
    def _encode(self, block: np.ndarray) -> None:
        """Append a checked block."""

    def _refused(self, error: Exception) -> AudioError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        refusal = name_refusal(error) if isinstance(error, OSError) else None
        kind = AudioError if refusal is None else RefusedName
        return kind(f"{printable(self._name)} cannot be written: {refusal or reason}")

    def _check_count(self, written: str | Path | Encoded) -> None:
        found = read_header(written).num_frames
        if found != self._num_frames:
            raise AudioError(
                f"{printable(self._name)}: wrote {self._num_frames} frames "
                f"but the file holds {found}"
            )


def _as_int16(block: np.ndarray, loudest: float) -> np.ndarray:
    """Round to the nearest of 16 bits; libsndfile takes ten times as long, and cuts off in WAV."""
    scaled = block * np.float32(32768)
    np.rint(scaled, out=scaled)
    if loudest * 32768 >= 32767.5:
        np.minimum(scaled, 32767, out=scaled)
    return scaled.astype(np.int16)


def _begin(
    file: bytes | io.BytesIO, sample_rate: int, num_channels: int, subtype: str, format: str
) -> soundfile.SoundFile:
    """Begin a file; one of floats without its peak, in whose chunk the present time would stand."""
    created = soundfile.SoundFile(file, "w", sample_rate, num_channels, subtype, format=format)
    soundfile._snd.sf_command(created._file, _ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
    return created


class MemoryWriter(_Encoder):
    """An audio file written in blocks into memory, of less than 4 GiB.

    Args:
        name: for messages.
        sample_rate: Hz.
        num_channels: rows of every block.
        format: "wav" or "flac".
        subtype: soundfile's name; PCM_16 if None.

    Raises:
        AudioError: the format cannot be written so.
    """

    def __init__(
        self,
        name: str,
        sample_rate: int,
        num_channels: int,
        format: str = "wav",
        subtype: str | None = None,
    ) -> None:
        super().__init__(name, num_channels, format, subtype)
        self._buffer = io.BytesIO()
        try:
            self._file = _begin(
                self._buffer, sample_rate, num_channels, self._subtype, self._format
            )
        except soundfile.SoundFileError as error:
            raise self._refused(error) from error

    def finish(self) -> bytes:
        """Return the file; nothing more is written.

        Raises:
            AudioError: it is not whole, or holds no frames.
        """
        self._file.close()
        data = self._buffer.getvalue()
        self._check_count(Encoded(str(self._name), data))
        return data

    def _encode(self, block: np.ndarray) -> None:
        if self._buffer.tell() + 8 * block.size > WAV_BYTE_LIMIT:
            raise AudioError(f"{printable(self._name)} takes more than 4 GiB; write it as a file")
        self._file.write(block.T)


class AudioWriter(_Encoder, AbstractContextManager["AudioWriter"]):
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

    Attributes:
        num_bytes: of the file, once it is whole; from then on it may be moved away.

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
        super().__init__(path, num_channels, format, subtype)
        self.num_bytes = 0
        self._path = Path(path)
        self._temporary = temporary_path(self._path)
        self._sample_rate = sample_rate
        self._file = self._create(self._format)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def finish(self) -> None:
        """Have the file whole on the disk, under its name, as at the end of the `with` block.

        Raises:
            AudioError: it is not whole, or holds no frames, or the disk refuses; it is discarded.
        """
        try:
            if not self._num_frames:
                raise AudioError(f"{printable(self._path)}: no frames were written")
            self._file.close()
            self._check_count(self._temporary)
            self.num_bytes = self._temporary.stat().st_size
            put_in_place(self._temporary, self._path)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._refused(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not finished, as where the `with` block ends in an error."""
        with suppress(soundfile.SoundFileError):  # the reason is on its way already
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _encode(self, block: np.ndarray) -> None:
        most = self._temporary.stat().st_size + 8 * block.size  # no subtype takes more bytes
        if self._format == "WAV" and most > WAV_BYTE_LIMIT:
            self._continue_as_rf64()
        self._file.write(block.T)

    def _create(self, format: str) -> soundfile.SoundFile:
        try:
            self._temporary.open("wb").close()  # soundfile would hide the system's reason
            return _begin(
                os.fsencode(self._temporary),
                self._sample_rate,
                self._num_channels,
                self._subtype,
                format,
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
        if len(os.fsencode(self._temporary)) > _MAX_PATH_BYTES:
            error = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with suppress(OSError):
            if shutil.disk_usage(self._path.parent).free < _PROBE_BYTES:
                return AudioError(
                    f"{printable(self._path)} cannot be written: no space left on its disk"
                )
        if not isinstance(error, OSError):
            error = self._reason_of_system() or error
        return super()._refused(error)

    def _reason_of_system(self) -> OSError | None:
        """Return why no more of the file is taken, such as a quota: libsndfile does not tell it."""
        try:
            with self._temporary.open("ab") as file:  # which is discarded anyway
                file.write(bytes(_PROBE_BYTES))
        except OSError as error:
            return error
        return None
