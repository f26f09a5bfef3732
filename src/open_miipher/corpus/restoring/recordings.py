"""The inputs of a restoration that are files: all of a directory, or what a manifest names."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioInfo, probe
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.index import find_audio
from open_miipher.restoration import Source

_ROUNDING = 0.01  # s; durations in manifests are rounded, so that the last may end behind its file
_NOTHING: Mapping[str, Any] = {}  # one for millions of recordings


class DeadLine(UserError):
    """A line of a manifest that cannot be right."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio file, or a segment of one.

    Attributes:
        path: of the file.
        offset: s of the file before it.
        duration: s; None: up to the file's end.
        where: the place that names it, for messages; empty for a file of a directory.
        origin: what rows say of where it comes from.
        extra: what else the manifest says of it.
    """

    path: str
    offset: float = 0.0
    duration: float | None = None
    where: str = ""
    origin: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    extra: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def stamp(self) -> list[int] | None:
        """The file's size in bytes and time of change in ns; None if there is no such file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None  # a link to nowhere, say: probing it will tell
        return [status.st_size, status.st_mtime_ns]

    def span(self, info: AudioInfo) -> tuple[int, int]:
        """Return the first frame and the number of frames.

        Raises:
            DeadLine: the file does not hold them.
        """
        rate = info.sample_rate
        start = _round(self.offset * rate)
        length = info.num_frames - start if self.duration is None else _round(self.duration * rate)
        beyond = start + length - info.num_frames
        if 0 < beyond <= _ROUNDING * rate:
            length -= beyond
        whole = f"the end of {printable(self.path)}, which has {info.num_frames / rate:g} s"
        if start >= info.num_frames:
            raise DeadLine(f"{self.where}: offset {self.offset:g} s lies behind {whole}")
        if start + length > info.num_frames:
            raise DeadLine(
                f"{self.where}: offset {self.offset:g} s and duration {self.duration:g} s lead "
                f"behind {whole}"
            )
        if length < 1:
            raise DeadLine(f"{self.where}: duration {self.duration:g} s is less than a sample")
        return start, length


@dataclass(frozen=True, slots=True)
class Details:
    """What is known of an input that can be restored.

    Attributes:
        recording: which one.
        stamp: of its file, to notice that it changed.
        info: its header.
        start: first frame.
        num_frames: how many.
    """

    recording: Recording
    stamp: list[int] | None
    info: AudioInfo
    start: int
    num_frames: int

    @classmethod
    def of(cls, recording: Recording, stamp: list[int] | None) -> "Details":
        """Look into a recording.

        Raises:
            AudioError: it cannot be read.
            DeadLine: see `Recording.span`.
        """
        info = probe(recording.path)
        return cls(recording, stamp, info, *recording.span(info))

    @property
    def seconds(self) -> float:
        """Audio that it holds."""
        return self.num_frames / self.info.sample_rate

    def source(self) -> Source:
        """Return what reads it."""
        return Source.from_file(self.recording.path, self.info, self.start, self.num_frames)


class Recordings(Protocol):
    """Inputs that are files; `ids` is asked before the rest."""

    def check(self, output_dir: Path) -> None:
        """Check, before a model is loaded, that outputs can go there.

        Raises:
            UserError: they cannot, or there is no such input.
        """

    def ids(self) -> list[str]:
        """List the inputs' stable ids, sorted: paths in their tree.

        Raises:
            UserError: there are none, or some cannot be right.
        """

    def wanted(self, item: str) -> str:
        """Return the path that an input's output is named after."""

    def recording(self, item: str) -> Recording:
        """Return an input."""

    def extra(self, item: str) -> Mapping[str, Any]:
        """Return what else is known of an input; nothing of one that is gone."""


class Directory:
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
        real_input, real_output = self._root.resolve(), output_dir.resolve()
        if real_output.is_relative_to(real_input) or real_input.is_relative_to(real_output):
            raise UserError(
                f"the output directory {printable(output_dir)} and the input directory "
                f"{printable(self._root)} lie inside each other; choose another output directory"
            )

    def ids(self) -> list[str]:
        """List the files by their paths."""
        found = find_audio(self._root)
        if not found:
            raise UserError(
                f"{printable(self._root)} holds no audio files ({', '.join(AUDIO_EXTENSIONS)})"
            )
        return found

    def wanted(self, item: str) -> str:
        """Return the path itself."""
        return item

    def recording(self, item: str) -> Recording:
        """Return a file."""
        return Recording(os.path.join(self._root, item))

    def extra(self, item: str) -> Mapping[str, Any]:
        """Return nothing."""
        return {}


def _round(frames: float) -> int:
    return math.floor(frames + 0.5)
