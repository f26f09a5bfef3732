"""Audio that libsndfile does not read, such as that of MP4, through PyAV."""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import av

_SAY_THEIR_LENGTH = ("mov", "matroska", "asf")  # of other containers it is guessed from bit rates
_SHORTER_BY = 1.0  # seconds that a container's length may be off
_NO_OTHER_FILES = {"protocol_whitelist": "none"}  # nor addresses: whatever a file names
_TAGS_ERRORS = "ignore"  # titles and names of any encoding: they are not read


class _Unnamed:
    """A file for PyAV, which sees of its name the extension only: demuxers ask for that."""

    def __init__(self, file: BinaryIO, extension: str) -> None:
        self.name = f"audio.{extension}"
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


class FfmpegFile(AbstractContextManager["FfmpegFile"]):
    """The first audio track of a file, read like a `soundfile.SoundFile`.

    It is decoded once to learn its length, which containers do not tell exactly, and again to read
    it; where it is read from lies behind what was read last, nothing is decoded anew.

    Args:
        file: opened for reading in binary; closed with this one. What it names is not opened, so
            that a playlist reads no other files and asks no server.
        extension: of its name, lower case, without the dot.

    Attributes:
        samplerate, frames, channels, format, subtype: as in soundfile.

    Raises:
        ValueError: no audio track, or one that is damaged, has gaps or ends early.
    """

    def __init__(self, file: BinaryIO, extension: str) -> None:
        self._file, self._extension = file, extension
        self.samplerate, self.frames, self.channels = 0, 0, 0
        self.format, self.subtype = "", ""
        self._rest = np.empty((0, 0), np.float32)  # decoded and not yet read
        try:
            for block in self._decoded():
                self.frames += block.shape[1]
        except BaseException:
            file.close()
            raise
        self._rewind()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()
        self._file.close()

    def seekable(self) -> bool:
        """Whether `seek` works: it does, by decoding what is passed over."""
        return True

    def seek(self, frame: int) -> int:
        """Go to a frame, and return it."""
        if frame < self._position:
            self._rewind()
        while frame > self._position:
            self.read(min(frame - self._position, self.samplerate))
        return self._position

    def tell(self) -> int:
        """Return the frame that is read next."""
        return self._position

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return (frames, channels) float32; fewer at the end. The other arguments are fixed."""
        parts, wanted = [np.empty((self.channels, 0), np.float32)], frames
        while wanted:
            block = self._rest if self._rest.shape[1] else next(self._blocks, None)
            if block is None:
                break
            parts.append(block[:, :wanted])
            self._rest = block[:, wanted:]
            wanted -= parts[-1].shape[1]
        self._position += frames - wanted
        return np.concatenate(parts, axis=1).T

    def _rewind(self) -> None:
        self._position, self._blocks = 0, self._decoded()
        self._rest = np.empty((self.channels, 0), np.float32)

    def _decoded(self) -> Generator[np.ndarray, None, None]:
        """Decode from the start: (channels, n) float32."""
        try:
            import av  # takes a tenth of a second
        except ImportError as error:
            raise ValueError(f"PyAV is needed: {error}; see python src/doctor.py") from error
        self._file.seek(0)
        named, seconds = _Unnamed(self._file, self._extension), 0.0
        try:
            with av.open(
                named, container_options=_NO_OTHER_FILES, metadata_errors=_TAGS_ERRORS
            ) as container:
                if not container.streams.audio:
                    raise ValueError("it has no audio track")
                track = container.streams.audio[0]
                if track.codec_context is None:
                    raise ValueError("its audio is encrypted, or of a codec that is not known")
                self.samplerate, self.channels = track.rate, track.channels
                self.format, self.subtype = container.format.name, track.codec_context.name
                to_float = av.AudioResampler(format="fltp")
                start, end, end_of_all = None, 0.0, 0.0
                for packet in _packets(container):
                    if packet.pts is not None:
                        of_packet = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                        end_of_all = max(end_of_all, of_packet)
                    if packet.stream.index != track.index:
                        continue
                    for frame in packet.decode():
                        kind = (frame.sample_rate, frame.layout.nb_channels)
                        if not seconds:  # of AAC, the header may give half of the rate
                            self.samplerate, self.channels = kind
                        if kind != (self.samplerate, self.channels):
                            raise ValueError(
                                "its sample rate or number of channels changes after "
                                f"{seconds:.1f} s"
                            )
                        if frame.time is not None:
                            start = frame.time if start is None else start
                            end = frame.time + frame.samples / frame.sample_rate
                        seconds += frame.samples / frame.sample_rate
                        yield from (part.to_ndarray() for part in to_float.resample(frame))
                yield from (part.to_ndarray() for part in to_float.resample(None))
                if self.format.startswith(_SAY_THEIR_LENGTH):
                    promised = (container.duration or 0) / av.time_base
                    _check_length(promised, end_of_all, end - (start or 0.0) - seconds)
        except (av.FFmpegError, OSError) as error:  # the latter from seeks to where nothing is
            reason = error.strerror or str(error)
            where = f"it is damaged after {seconds:.1f} s: " if seconds else ""
            raise ValueError(where + reason) from error


def _packets(container: "av.container.InputContainer") -> "Iterator[av.Packet]":
    """Yield the packets of all tracks, and one without data at the end of each."""
    # PyAV raises it behind the end of all, where a track was not there at the start of the file.
    with suppress(IndexError):
        yield from container.demux()


def _check_length(promised: float, end: float, missing: float) -> None:
    """Refuse a file that ends before what its header says, or whose audio has gaps, in seconds.

    Audio may begin later than the video beside it, and end earlier.
    """
    if end < promised - _SHORTER_BY:
        raise ValueError(f"it ends after {end:.1f} s of the {promised:.1f} s that its header says")
    if missing > _SHORTER_BY:
        raise ValueError(f"{missing:.1f} s of its audio are missing, by its time stamps")
