"""Audio that libsndfile does not read, such as that of MP4, through PyAV."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from itertools import chain
from typing import BinaryIO

import numpy as np

_SAY_THEIR_LENGTH = ("mov", "matroska", "asf")  # of other containers it is guessed from bit rates
_SHORTER_BY = 1.0  # seconds that a container's length may be off


class FfmpegFile(AbstractContextManager["FfmpegFile"]):
    """The first audio track of a file, read like a `soundfile.SoundFile`.

    It is decoded once to learn its length, which containers do not tell exactly, and again to read
    it; where it is read from lies behind what was read last, nothing is decoded anew.

    Args:
        file: opened for reading in binary; closed with this one. Names are not followed, so that a
            playlist cannot name other files.

    Attributes:
        samplerate, frames, channels, format, subtype: as in soundfile.

    Raises:
        ValueError: no audio track, or one that is damaged or ends early.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.samplerate, self.frames, self.channels = 0, 0, 0
        self.format, self.subtype = "", ""
        self._promised = 0.0  # seconds
        self._rest = np.empty((0, 0), np.float32)  # decoded and not yet read
        try:
            for block in self._decoded():
                self.frames += block.shape[1]
            if self.frames / self.samplerate < self._promised - _SHORTER_BY:
                raise ValueError(
                    f"its audio ends after {self.frames / self.samplerate:.1f} s of the "
                    f"{self._promised:.1f} s that its header says"
                )
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
        import av  # takes a tenth of a second

        self._file.seek(0)
        try:
            with av.open(self._file) as container:
                if not container.streams.audio:
                    raise ValueError("it has no audio track")
                track = container.streams.audio[0]
                self.samplerate, self.channels = track.rate, track.channels
                self.format, self.subtype = container.format.name, track.codec_context.name
                says = container.format.name.startswith(_SAY_THEIR_LENGTH)
                self._promised = (container.duration or 0) / av.time_base if says else 0.0
                to_float = av.AudioResampler(format="fltp")
                for frame in chain(container.decode(track), [None]):
                    yield from (part.to_ndarray() for part in to_float.resample(frame))
        except (av.FFmpegError, OSError) as error:  # the latter from seeks to where nothing is
            raise ValueError(str(error)) from error
