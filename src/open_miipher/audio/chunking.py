"""Cut long audio into overlapping chunks and join what a model made of them.

Neighbouring chunks share `overlap_frames`. In the output, each outer third of an overlap is taken
from the chunk that has more context there, and the middle third is cross-faded. So a model whose
context is shorter than a third of the overlap gives exactly the same output as without chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from open_miipher.base.errors import UserError


@dataclass(frozen=True)
class ChunkGrid:
    """Chunks at fixed places: chunk k begins at frame k * (chunk_frames - overlap_frames).

    A frame is a frame of the model's features, so a chunk begins on a whole sample of the model's
    input and of its output. The last chunk may be shorter, but it is longer than an overlap.

    Attributes:
        chunk_frames: length of every chunk but the last.
        overlap_frames: frames shared by neighbours, at most half a chunk; 0 joins without a fade.

    Raises:
        UserError: a chunk has no frame, or the overlap is longer than half a chunk.
    """

    chunk_frames: int
    overlap_frames: int

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise UserError("a chunk must hold at least one feature frame; make chunks longer")
        if not 0 <= 2 * self.overlap_frames <= self.chunk_frames:
            raise UserError("the overlap must be between 0 and half a chunk")

    @classmethod
    def from_seconds(
        cls, chunk_seconds: float, overlap_seconds: float, frame_rate: float
    ) -> "ChunkGrid":
        """Make a grid of whole frames at `frame_rate` (Hz)."""
        return cls(round(chunk_seconds * frame_rate), round(overlap_seconds * frame_rate))

    @property
    def hop_frames(self) -> int:
        """Frames from one chunk's start to the next one's."""
        return self.chunk_frames - self.overlap_frames

    @property
    def margin_frames(self) -> int:
        """Frames at a chunk's inner ends that are discarded: a third of the overlap."""
        return self.overlap_frames // 3

    def num_chunks(self, num_frames: int) -> int:
        """Count the chunks of a signal."""
        beyond_first = max(0, num_frames - self.chunk_frames)
        return 1 + -(-beyond_first // self.hop_frames)

    def bounds(self, num_frames: int) -> Iterator[tuple[int, int]]:
        """Yield each chunk's first frame and the frame after its last."""
        for k in range(self.num_chunks(num_frames)):
            start = k * self.hop_frames
            yield start, min(start + self.chunk_frames, num_frames)


class OverlapAdd:
    """Joins chunks, given in order, into one signal; keeps only the last fade in memory.

    Args:
        grid: the places of the chunks.
        samples_per_frame: samples of the joined signal per frame of the grid.
    """

    def __init__(self, grid: ChunkGrid, samples_per_frame: int) -> None:
        self._margin = grid.margin_frames * samples_per_frame
        fade = grid.overlap_frames * samples_per_frame - 2 * self._margin
        phase = (np.arange(fade, dtype=np.float32) + 0.5) / max(1, fade)
        self._rise = np.sin(0.5 * np.pi * phase) ** 2  # with its mirror image it sums to 1
        self._tail: np.ndarray | None = None

    def push(self, chunk: np.ndarray, last: bool) -> np.ndarray:
        """Add the next chunk.

        Args:
            chunk: (channels, samples); faded in place.
            last: whether this is the last chunk.

        Returns:
            (channels, n): the part of the joined signal that follows what the previous call
            returned.
        """
        fade = len(self._rise)
        if self._tail is not None:
            chunk = chunk[:, self._margin :]
            chunk[:, :fade] *= self._rise
            chunk[:, :fade] += self._tail * self._rise[::-1]
        if last:
            return chunk
        end = chunk.shape[1] - self._margin
        self._tail = chunk[:, end - fade : end].copy()
        return chunk[:, : end - fade]


class Tap:
    """Reads any number of samples from a stream of blocks of any size.

    Args:
        blocks: each (channels, n); blocks are taken only when their samples are needed.
        num_channels: rows of every block.
    """

    def __init__(self, blocks: Iterator[np.ndarray], num_channels: int) -> None:
        self._blocks = blocks
        self._ready = np.zeros((num_channels, 0), dtype=np.float32)

    def peek(self, num_samples: int) -> np.ndarray:
        """Return the next samples (channels, n), fewer at the stream's end; do not remove them."""
        ready = [self._ready]
        num_ready = self._ready.shape[1]
        while num_ready < num_samples and (block := next(self._blocks, None)) is not None:
            ready.append(block)
            num_ready += block.shape[1]
        self._ready = np.concatenate(ready, axis=1) if len(ready) > 1 else self._ready
        return self._ready[:, :num_samples]

    def drop(self, num_samples: int) -> None:
        """Remove the next samples; `peek` must have returned them before."""
        self._ready = self._ready[:, num_samples:]
