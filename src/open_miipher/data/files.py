"""The files of several indexes as one list."""

import filecmp
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import numpy as np

from open_miipher.audio.io import AudioError, AudioInfo, read
from open_miipher.audio.level import scale_problem
from open_miipher.audio.recording import Recording
from open_miipher.base.amounts import counted, duration
from open_miipher.base.errors import UserError, notice
from open_miipher.base.paths import printable
from open_miipher.distributed import is_first_here
from open_miipher.index import Entry, Index, index_command, read_index, verify_index

_MOST_COMPARED = 2000  # files, by their content


@dataclass(frozen=True)
class File(Recording):
    """One file of an index.

    Attributes:
        name: the directory's name and the path in it.
        info: what the index says of it.
        root: the directory of the index.
        entry: its row.
    """

    root: Path
    entry: Entry

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.entry.file_path

    def decode(self, start: int, count: int) -> np.ndarray:
        """Return frames: (channels, count) float32.

        Raises:
            UserError: the file is not what the index says; the message says how to mend it.
        """
        try:
            block, sample_rate = read(self.path, start, count)
        except AudioError as error:
            raise self._changed(str(error)) from error
        if (sample_rate, len(block)) != (self.entry.sample_rate, self.entry.num_channels):
            raise self._changed(
                f"{self.path} has {len(block)} channels at {sample_rate} Hz, "
                f"the index says {self.entry.num_channels} at {self.entry.sample_rate} Hz"
            )
        problem = scale_problem(block)
        if problem:
            raise UserError(f"{self.path} {problem}")
        return block

    def _changed(self, problem: str) -> UserError:
        return UserError(
            f"{problem}; mend the file, or make an index without such files: "
            f"{index_command(self.root)} --check"
        )


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
        entry = index[number - self._ends[place] + len(index)]
        info = AudioInfo(entry.sample_rate, entry.num_frames, entry.num_channels, "", "")
        return File(f"{index.root.name}/{entry.file_path}", info, index.root, entry)

    def like(self, infos: Collection[AudioInfo]) -> Iterator[File]:
        """Yield the files that have the rate, length and channels of one of these."""
        lengths = np.array([info.num_frames for info in infos])
        for index, end in zip(self._indexes, self._ends, strict=True):
            for row in np.flatnonzero(np.isin(index.columns.num_frames, lengths)).tolist():
                file = self[end - len(index) + row]
                if file.info in infos:
                    yield file

    def num_below(self, sample_rate: int) -> int:
        """Count the files of a lower rate, in Hz."""
        return sum(int((i.columns.sample_rate < sample_rate).sum()) for i in self._indexes)

    def number_at(self, share: float) -> int:
        """Return the file that lies at a share of the length of all, from 0 to 1, end to end."""
        ends = self._ends_in_seconds
        return min(int(np.searchsorted(ends, share * ends[-1], side="right")), len(ends) - 1)

    @cached_property
    def _ends_in_seconds(self) -> np.ndarray:
        columns = [index.columns for index in self._indexes]
        return np.cumsum(np.concatenate([own.num_frames / own.sample_rate for own in columns]))

    def num_shorter(self, num_samples: int, sample_rate: int) -> int:
        """Count the files that have fewer samples, once resampled to `sample_rate` Hz."""
        columns = (index.columns for index in self._indexes)
        return sum(
            int((own.num_frames * sample_rate < (num_samples - 0.5) * own.sample_rate).sum())
            for own in columns
        )

    @property
    def sizes(self) -> np.ndarray:
        """Samples of all channels of each file together, (files,) int64."""
        columns = [index.columns for index in self._indexes]
        return np.concatenate([own.num_frames * own.num_channels for own in columns])

    @property
    def seconds(self) -> float:
        """Length of all files together."""
        columns = (index.columns for index in self._indexes)
        return sum(float((own.num_frames / own.sample_rate).sum()) for own in columns)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the indexes, in order."""
        return sha256("".join(index.fingerprint for index in self._indexes).encode()).hexdigest()


def described(files: Files | Sequence[File]) -> str:
    """Say how many files there are, and how long they are together."""
    if isinstance(files, Files):
        seconds = files.seconds
    else:
        seconds = sum(file.info.num_frames / file.info.sample_rate for file in files)
    return f"{counted(len(files), 'files')}, {duration(seconds)}"


def open_files(dir_list: list[str], key: str, sample_rate: int) -> Files:
    """Open files that need the full band: clean targets, and impulse responses of rooms.

    Warns of files with a lower sample rate.

    Raises:
        UserError: a directory, its index or a listed file is missing or wrong.
    """
    files = Files(dir_list)
    num_below = files.num_below(sample_rate)
    if num_below:
        notice(
            f"{num_below} of {len(files)} files of {key} have a lower rate than "
            f"data.sample_rate={sample_rate}: their upper band is empty",
        )
    return files


def held_out(files: Files, num_clips: int, trained_on: Sequence[str]) -> list[File]:
    """Return clips for validation, evenly spaced in the index; warns of those that are trained on.

    Args:
        files: to choose from.
        num_clips: how many, if there are as many.
        trained_on: the directories of the training data.
    """
    count = min(num_clips, len(files))
    clips = [files[k * len(files) // count] for k in range(count)]
    if trained_on and is_first_here():  # which says it for all
        warn_of_shared(clips, Files(trained_on))
    return clips


def warn_of_shared(clips: Sequence[File], trained: Files) -> None:
    """Warn of clips that are trained on, whichever directory, link or copy has them there.

    Only files of a clip's rate, length and channels are looked at; where these are many, because
    all have one length, only those of a clip's name.
    """
    by_info: dict[AudioInfo, list[File]] = defaultdict(list)
    for clip in clips:
        by_info[clip.info].append(clip)
    likely = list(trained.like(by_info))
    if len(likely) > _MOST_COMPARED:
        names = {clip.path.name for clip in clips}
        likely = [file for file in likely if file.path.name in names]
    shared = {
        clip.path: file.path
        for file in likely
        for clip in by_info[file.info]
        if _is_same(clip.path, file.path)
    }
    for path, other in list(shared.items())[:1]:
        notice(
            f"{len(shared)} of the {len(clips)} validation clips, such as {printable(path)} "
            f"({printable(other)}), are in data.train.dir_list and in data.test.dir_list: "
            "validation will not show overfitting",
        )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two files are one, or have the same content."""
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


_verified: set[tuple[Path, str]] = set()


def _verify_once(index: Index) -> None:
    """Verify an index that this process has not verified yet, as it is."""
    what = index.root.resolve(), index.fingerprint
    if what not in _verified:
        verify_index(index)
        _verified.add(what)
