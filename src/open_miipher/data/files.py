"""The files of several indexes as one list, and spans of them at the model's rate."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from math import gcd
from pathlib import Path

import numpy as np

from open_miipher.audio.io import AudioError, read
from open_miipher.audio.resample import num_output_frames, resample
from open_miipher.base.errors import UserError
from open_miipher.distributed import is_first_here
from open_miipher.index import Entry, Index, read_index, verify_index

_MARGIN_SECONDS = 0.05
"""Read on both sides of a span, so that resampling it equals resampling the whole file."""


@dataclass(frozen=True)
class File:
    """One file of an index.

    Attributes:
        root: the directory of the index.
        entry: its row.
    """

    root: Path
    entry: Entry

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.entry.file_path

    @property
    def name(self) -> str:
        """Directory's name and path in it: unique enough for messages."""
        return f"{self.root.name}/{self.entry.file_path}"

    @property
    def sample_rate(self) -> int:
        """Its own rate in Hz."""
        return self.entry.sample_rate

    @property
    def num_channels(self) -> int:
        """How many channels it has."""
        return self.entry.num_channels

    def num_samples(self, sample_rate: int) -> int:
        """Length once resampled to `sample_rate` Hz."""
        return num_output_frames(self.entry.num_frames, self.entry.sample_rate, sample_rate)

    def draw_channel(self, rng: np.random.Generator) -> int:
        """Draw one of the channels: a mean of several would cancel what differs in phase."""
        return int(rng.integers(self.entry.num_channels)) if self.entry.num_channels > 1 else 0

    def read(self, channel: int, start: int, num_samples: int, sample_rate: int) -> np.ndarray:
        """Read a span of one channel, resampled (see `read_resampled`).

        Args:
            channel: which.
            start: first sample, counted at `sample_rate`.
            num_samples: how many, within the file.
            sample_rate: Hz to resample to.

        Returns:
            (num_samples,) float32.

        Raises:
            UserError: the file is not what the index says; the message says how to mend it.
        """
        return read_resampled(
            lambda first, count: self._decode(first, count)[channel],
            self.entry.num_frames,
            self.entry.sample_rate,
            start,
            num_samples,
            sample_rate,
        )

    def _decode(self, start: int, num_frames: int) -> np.ndarray:
        try:
            block, sample_rate = read(self.path, start, num_frames)
        except AudioError as error:
            raise self._changed(str(error)) from error
        if (sample_rate, len(block)) != (self.entry.sample_rate, self.entry.num_channels):
            raise self._changed(
                f"{self.path} has {len(block)} channels at {sample_rate} Hz, "
                f"the index says {self.entry.num_channels} at {self.entry.sample_rate} Hz"
            )
        return block

    def _changed(self, problem: str) -> UserError:
        return UserError(
            f"{problem}; mend the file or make the index again: "
            f"python dataset/script/make_metadata_csv.py --root-dir {self.root}"
        )


def read_resampled(
    decode: Callable[[int, int], np.ndarray],
    num_frames: int,
    rate: int,
    start: int,
    num_samples: int,
    sample_rate: int,
) -> np.ndarray:
    """Read a span of a recording, resampled.

    The span's place is computed in the recording's own frames: reading begins on a frame that falls
    on a sample of the new rate, so that the result equals that part of the whole recording
    resampled; only the span and a margin are decoded.

    Args:
        decode: gives (count,) float32 from a first frame and a count of frames.
        num_frames: of the recording.
        rate: of the recording, in Hz.
        start: first sample, counted at `sample_rate`.
        num_samples: how many, within the recording.
        sample_rate: Hz to resample to.

    Returns:
        (num_samples,) float32.
    """
    if rate == sample_rate:
        return decode(start, num_samples)
    frames, samples = rate // gcd(rate, sample_rate), sample_rate // gcd(rate, sample_rate)
    margin = round(_MARGIN_SECONDS * sample_rate)
    first_period = max(0, start - margin) // samples
    first_frame = first_period * frames
    last_frame = min(num_frames, -(-(start + num_samples + margin) * rate // sample_rate))
    span = decode(first_frame, last_frame - first_frame)
    offset = start - first_period * samples
    return resample(span, rate, sample_rate)[offset : offset + num_samples]


class Files:
    """The files of several directories, one after the other.

    The first rank of each machine looks at the files themselves (see `verify_index`), once in its
    life at each directory: where several ranks start, they have to agree afterwards on whether it
    went well (`World.agree`).

    Args:
        dir_list: directories with a metadata.csv each.

    Raises:
        UserError: a directory or its index is missing or wrong, or a listed file is.
    """

    def __init__(self, dir_list: Sequence[str]) -> None:
        self._indexes: list[Index] = [read_index(directory) for directory in dir_list]
        for index in self._indexes if is_first_here() else ():
            _verify_once(index)
        self._ends = list(accumulate(map(len, self._indexes)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> File:
        place = bisect_right(self._ends, number)
        index = self._indexes[place]
        return File(index.root, index[number - self._ends[place] + len(index)])

    def num_below(self, sample_rate: int) -> int:
        """Count the files of a lower rate, in Hz."""
        return sum(int((i.columns.sample_rate < sample_rate).sum()) for i in self._indexes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the indexes, in order."""
        return sha256("".join(index.fingerprint for index in self._indexes).encode()).hexdigest()


_verified: set[tuple[Path, str]] = set()


def _verify_once(index: Index) -> None:
    """Verify an index that this process has not verified yet, as it is."""
    what = index.root.resolve(), index.fingerprint
    if what not in _verified:
        verify_index(index)
        _verified.add(what)
