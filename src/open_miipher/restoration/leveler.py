"""Restored chunks brought to the level that they have in the input (see `audio/level.py`)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from open_miipher.audio.level import (
    FRAME_SECONDS,
    GainTrack,
    active_frames,
    disagreement,
    fit_gain,
    frame_power,
    own_level_gain,
    slope,
)
from open_miipher.restoration.job import Chunk, Job

LOOK_AHEAD = 4
"""Chunks that a chunk without speech waits for the next one with speech (see `GainTrack`)."""


@dataclass(eq=False)
class _Waiting:
    """A restored chunk on its way through the leveler.

    The powers are mean squares of frames, (channels, frames), where a chunk overlaps another.
    """

    restored: np.ndarray  # (channels, samples)
    head: np.ndarray  # of its beginning
    tail: np.ndarray  # of its end
    active: np.ndarray  # (channels, frames) bool: where in the beginning somebody speaks
    spoken: np.ndarray  # (channels,) bool: whether the gain is its own


class Leveler:
    """Gives a job's chunks, in order, the level that they have in the input.

    Args:
        job: whose chunks they are.
    """

    def __init__(self, job: Job) -> None:
        model, grid = job.model, job.grid
        group = max(1, round(FRAME_SECONDS * model.input_rate / model.input_hop))
        self._input_length, self._output_length = group * model.input_hop, group * model.output_hop
        self._num_shared = grid.overlap_frames // group
        self._hop = grid.hop_frames * model.output_hop
        middle = grid.overlap_frames * model.output_hop // 2
        self._seams = middle, self._hop + middle
        self._tracks = [GainTrack(LOOK_AHEAD) for _ in range(job.num_channels)]
        self._gains: list[list[float]] = [[] for _ in self._tracks]
        self._waiting: list[_Waiting] = []
        self._decided: list[tuple[_Waiting, np.ndarray]] = []  # those whose gains are known
        self._logs = np.zeros(job.num_channels)  # of the slope at the first one's first seam

    def push(self, chunk: Chunk, last: bool) -> list[np.ndarray]:
        """Take the next restored chunk; return those, scaled, whose levels are settled now."""
        before = frame_power(chunk.waveform, self._input_length)
        after = frame_power(chunk.restored, self._output_length)
        own = [fit_gain(*powers) for powers in zip(before, after, strict=True)]
        self._waiting.append(self._wait(chunk, before, after, own))
        for track, gains, gain, reference, restored in zip(
            self._tracks, self._gains, own, before, after, strict=True
        ):
            gains += track.push(gain, own_level_gain(reference, restored))
            if last:
                gains += track.finish()
        for _ in range(min(map(len, self._gains))):
            gain_of_each = np.array([gains.pop(0) for gains in self._gains])
            self._decided.append((self._waiting.pop(0), gain_of_each))
        settled = [self._join(*pair) for pair in pairwise(self._decided)]
        del self._decided[:-1]
        if last:
            settled.append(self._scale(*self._decided[0], np.zeros_like(self._logs)))
        return settled

    def _wait(
        self, chunk: Chunk, before: np.ndarray, after: np.ndarray, own: list[float | None]
    ) -> _Waiting:
        shared = slice(self._num_shared)
        tail = frame_power(chunk.restored[:, self._hop :], self._output_length)
        return _Waiting(
            chunk.restored,
            head=after[:, shared],
            tail=tail[:, shared],
            active=np.array([active_frames(powers)[shared] for powers in before]),
            spoken=np.array([gain is not None for gain in own]),
        )

    def _join(
        self, first: tuple[_Waiting, np.ndarray], second: tuple[_Waiting, np.ndarray]
    ) -> np.ndarray:
        """Scale the first chunk so that it meets the second, and remember how that has to begin."""
        (earlier, gains), (later, later_gains) = first, second
        powers = zip(
            gains[:, None] ** 2 * earlier.tail,
            later_gains[:, None] ** 2 * later.head,
            later.active,
            strict=True,
        )
        differences = np.array([disagreement(*channel) for channel in powers])
        half = np.where(earlier.spoken & later.spoken, differences / 2, 0.0)
        scaled = self._scale(earlier, gains, -half)
        self._logs = half
        return scaled

    def _scale(self, chunk: _Waiting, gains: np.ndarray, logs: np.ndarray) -> np.ndarray:
        num_samples = chunk.restored.shape[1]
        slopes = [
            slope(num_samples, self._seams, pair) for pair in zip(self._logs, logs, strict=True)
        ]
        return chunk.restored * gains.astype(np.float32)[:, None] * np.stack(slopes)
