"""Manifests in JSON lines: which files, or which segments of them, and what is said of them.

A line is an object with `audio_filepath`, absolute or relative to the manifest's folder, and, for a
segment, `offset` and `duration` in seconds; all else is passed through.
"""

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

_LONGEST_SECONDS = 1e12  # so that frames, and names with a span, stay numbers that can be written
_OWN = ("audio_filepath", "offset", "duration")
_OF_ANOTHER_RUN = ("trust", "trust_reason", "kept_input")  # that made the files; none of the next


@dataclass(frozen=True, slots=True)
class ManifestLine:
    """A line that can be right.

    Attributes:
        where: the manifest and the line's number, for messages.
        audio_filepath: as it stands there.
        offset: s of the file before the segment.
        duration: s; None: up to the file's end.
        more: all its other keys, but for the trust in an earlier restoration.
    """

    where: str
    audio_filepath: str
    offset: float
    duration: float | None
    more: Mapping[str, Any]

    def tree_path(self, root: str) -> str:
        """Return the file's place in a tree: below its absolute root, else all of its own path."""
        path = os.path.normpath(os.path.join(root, self.audio_filepath))
        inside = root if root.endswith("/") else f"{root}/"
        return path.removeprefix(inside) if path.startswith(inside) else path.lstrip("/")

    def with_span(self, path: str) -> str:
        """Put the segment's span into a path: `a/x.wav` from 2.5 s for 1 s is `a/x@2.5+1.wav`."""
        if not self.offset and self.duration is None:
            return path
        stem, suffix = os.path.splitext(path)
        end = "" if self.duration is None else f"+{_decimal(self.duration)}"
        return f"{stem}@{_decimal(self.offset)}{end}{suffix}"


def read_manifest(path: Path) -> Iterator[ManifestLine | str]:
    """Yield the lines of a manifest; of one that cannot be right, what is wrong with it.

    Raises:
        UserError: the file cannot be read, or is no text.
    """
    skipped = _OWN + _OF_ANOTHER_RUN
    for where, text in _lines(path):
        try:
            line = _checked(json.loads(text))
        except json.JSONDecodeError as error:
            yield f"{where} is no JSON: {error.msg} at column {error.colno}"
        except RecursionError:
            yield f"{where} is nested too deeply"
        except ValueError as error:
            yield f"{where}: {error}"
        else:
            offset, duration = line.get("offset") or 0.0, line.get("duration")
            more = {name: value for name, value in line.items() if name not in skipped}
            yield ManifestLine(where, line["audio_filepath"], offset, duration, more)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield where a line stands, and the line; empty ones are passed over."""
    name = printable(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield f"{name}, line {number}", text
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8: {error}") from error


def _checked(line: Any) -> dict[str, Any]:
    """Return the line if it can be right.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(line, dict):
        raise ValueError("a line must be a JSON object")
    path = line.get("audio_filepath")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("audio_filepath must be a path")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        broken = ascii(path[error.start : error.end])
        raise ValueError(f"audio_filepath holds {broken}, which no file name can") from error
    offset, duration = line.get("offset"), line.get("duration")
    most = f"{_LONGEST_SECONDS:g} s"
    if offset is not None and not (_is_number(offset) and offset >= 0):
        raise ValueError(f"offset is {reprlib.repr(offset)}; it must be 0 s to {most}")
    if duration is not None and not (_is_number(duration) and duration > 0):
        shown = reprlib.repr(duration)
        raise ValueError(f"duration is {shown}; it must be more than 0 s, at most {most}")
    return line


def _decimal(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= _LONGEST_SECONDS  # false for NaN too
