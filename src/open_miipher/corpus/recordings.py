"""Inputs that are audio files: all of a directory, or what a manifest names."""

import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioInfo, probe
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import check_apart, file_stamp, lies_in, printable
from open_miipher.corpus.inputs import Audio, Inputs, InputSample
from open_miipher.corpus.run import Item
from open_miipher.index import find_audio, read_extra_columns
from open_miipher.index.manifest import read_manifest
from open_miipher.restoration import Source

_NOTHING: Mapping[str, Any] = {}  # one for millions of segments
_ROUNDING = 0.01  # s; durations in manifests are rounded, so that the last may end behind its file


@dataclass(frozen=True, slots=True)
class Segment:
    """An audio file, or a part of one.

    Attributes:
        path: of the file.
        offset: s of the file before it.
        duration: s; None: up to the file's end.
        where: the place that names it, for messages; empty for a file of a directory.
        origin: what rows say of where it comes from.
        about: what else the manifest says of it.
        info: the file's header; this and the next two are known once it was looked into.
        start: first frame.
        num_frames: how many.
    """

    path: str
    offset: float = 0.0
    duration: float | None = None
    where: str = ""
    origin: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    about: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    info: AudioInfo | None = None
    start: int = 0
    num_frames: int = 0

    @property
    def stamp(self) -> list[int] | None:
        """The file's size in bytes and time of change in ns; None if there is no such file."""
        return file_stamp(self.path)

    def look(self) -> "Segment":
        """Read the file's header.

        Raises:
            AudioError: it cannot be read.
            UserError: the file does not hold the segment.
        """
        info = probe(self.path)
        rate = info.sample_rate
        start = _round(self.offset * rate)
        length = info.num_frames - start if self.duration is None else _round(self.duration * rate)
        beyond = start + length - info.num_frames
        if 0 < beyond <= _ROUNDING * rate:
            length -= beyond
        whole = f"the end of {printable(self.path)}, which has {info.num_frames / rate:g} s"
        if start >= info.num_frames:
            raise UserError(f"{self.where}: offset {self.offset:g} s lies behind {whole}")
        if start + length > info.num_frames:
            raise UserError(
                f"{self.where}: offset {self.offset:g} s and duration {self.duration:g} s lead "
                f"behind {whole}"
            )
        if length < 1:
            raise UserError(f"{self.where}: duration {self.duration:g} s is less than a sample")
        return replace(self, info=info, start=start, num_frames=length)

    @property
    def seconds(self) -> float:
        """Audio that it holds, once it was looked into."""
        return 0.0 if self.info is None else self.num_frames / self.info.sample_rate

    def source(self) -> Source:
        """Return what reads it, once it was looked into."""
        assert self.info is not None
        return Source.from_file(self.path, self.info, self.start, self.num_frames)


class Recordings(Inputs):
    """Inputs that are audio files or segments, each of which becomes a file."""

    @abstractmethod
    def segment(self, item: str) -> Segment:
        """Return an input."""

    def stamp(self, item: str) -> Any:
        """Return the stamp of the file."""
        return self.segment(item).stamp

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Read the header."""
        segment = self.segment(item).look()
        return Item(item, output, segment.seconds, stamp, segment)

    def open(self, item: Item) -> Iterator[InputSample]:
        """Give the file."""
        segment: Segment = item.details
        audio = {"": Audio(item.id, segment.source())}
        yield InputSample(item.id, members=audio, extra=segment.origin)

    def origin(self, item: str) -> Mapping[str, Any]:
        """Return what the manifest calls the file, and the segment's offset."""
        return self.segment(item).origin


class Directory(Recordings):
    """All audio files under a directory.

    Args:
        root: only read; a metadata.csv in it is not needed and not used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, output_dir: Path) -> None:
        """Refuse a missing directory, and one inside the other."""
        if not self._root.is_dir():
            raise UserError(f"the input {printable(self._root)} is not a directory")
        check_apart([self._root], output_dir)

    def ids(self) -> list[str]:
        """List the files by their paths."""
        self.root = os.path.realpath(self._root)
        found = find_audio(self._root, tells_rest=True)
        if not found:
            raise UserError(
                f"{printable(self._root)} holds no audio files ({', '.join(AUDIO_EXTENSIONS)})"
            )
        return found

    def segment(self, item: str) -> Segment:
        """Return a file."""
        return Segment(os.path.join(self._root, item))


class Indexed(Directory):
    """All audio files under a directory, each with what the directory's metadata.csv says of it.

    Args:
        root: only read; its metadata.csv may be missing, and may lack files.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._columns: Mapping[str, Mapping[str, Any]] = {}

    def ids(self) -> list[str]:
        """List the files by their paths, and read the index."""
        self._columns = read_extra_columns(self._root)
        return super().ids()

    def segment(self, item: str) -> Segment:
        """Return a file with its columns."""
        return replace(super().segment(item), about=self._columns.get(item, _NOTHING))


class Manifest(Recordings):
    """What a manifest in JSON lines names: files, or segments of them.

    The tree that outputs mirror is the manifest's folder; of a file outside, its absolute path
    below it.

    Args:
        path: of the manifest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._segments: dict[str, Segment] = {}
        self._tree_paths: dict[str, str] = {}  # of parts of files: where the file lies in the tree
        self._num_lines: Counter[str] = Counter()  # by file, as a path in the tree
        self._output_dir: Path | None = None

    def check(self, output_dir: Path) -> None:
        """Refuse a missing manifest; `ids` refuses files inside the output directory."""
        if not self._path.is_file():
            raise UserError(f"the manifest {printable(self._path)} is not a file")
        self._output_dir = output_dir

    def ids(self) -> list[str]:
        """Read the manifest, and refuse all lines together that cannot be right.

        An id is the path in the tree, a segment's with its span.
        """
        self.root = os.path.realpath(self._path.parent)
        self._segments, self._tree_paths, self._num_lines = {}, {}, Counter()
        problems = list(self._read())
        folders = {os.path.dirname(segment.path) for segment in self._segments.values()}
        problems += [
            f"{printable(self._path)} names files in {printable(folder)}, inside the output "
            "directory; choose another output directory"
            for folder in sorted(folders)
            if self._output_dir is not None and lies_in(folder, self._output_dir)
        ]
        report(problems)
        if not self._segments:
            raise UserError(f"the manifest {printable(self._path)} names no files")
        return sorted(self._segments)

    def named_after(self, item: str) -> str:
        """Return the file's path in the tree, with the span where a file has several lines."""
        tree_path = self._tree_paths.get(item, item)
        return tree_path if self._num_lines[tree_path] == 1 else item

    def segment(self, item: str) -> Segment:
        """Return what a line names."""
        return self._segments[item]

    def about(self, item: str) -> Mapping[str, Any]:
        """Return what else the manifest says of it."""
        known = self._segments.get(item)
        return {} if known is None else known.about

    def _read(self) -> Iterator[str]:
        """Take in all lines; yield what is wrong with them."""
        root = os.path.abspath(self._path.parent)
        for line in read_manifest(self._path):
            if isinstance(line, str):
                yield line
                continue
            path = os.path.normpath(os.path.join(root, line.audio_filepath))
            tree_path = line.tree_path(root)
            item = line.with_span(tree_path)
            if item in self._segments:
                first = self._segments[item].where
                yield f"{line.where} names the same as {first}; remove one of them"
                continue
            self._num_lines[tree_path] += 1
            if item != tree_path:
                self._tree_paths[item] = tree_path
            origin = {"input_filepath": line.audio_filepath, "input_offset": line.offset}
            self._segments[item] = Segment(
                path, line.offset, line.duration, line.where, origin, line.more
            )


def _round(frames: float) -> int:
    return math.floor(frames + 0.5)
