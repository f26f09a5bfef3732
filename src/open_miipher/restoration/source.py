"""Where audio comes from: a file read in blocks, or an array."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from open_miipher.audio.io import AudioError, AudioFile, AudioInfo, AudioReader, shown
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
