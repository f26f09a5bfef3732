"""Raw collections: directories with an index, and tar files; cut into units of work."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.corpus.preprocessing.config import PreprocessingData, RawSource
from open_miipher.corpus.preprocessing.raw_samples import Recording, open_recordings
from open_miipher.corpus.threads import map_in_threads
from open_miipher.data.building import open_files
from open_miipher.data.files import Files
from open_miipher.shards import ShardError, Storage, StorageError, expand, is_s3, read_samples

_BYTES_A_SECOND = 40_000  # of speech in a tar, about: an hour more or less only shows in progress
STAMP_THREADS = 16


@dataclass(frozen=True)
class Unit:
    """A tar file, or some files of a directory that follow each other: worked on as a whole.

    Attributes:
        source: URL of the tar, or the directory; absolute paths.
        stamp: what tells that it is another one now; plain data.
        seconds: of audio to be read, about.
        block: number, first and last + 1 of the directory's files; None for a tar.
    """

    source: str
    stamp: list[Any]
    seconds: float
    block: tuple[int, int, int] | None = None

    @property
    def id(self) -> str:
        """The source, with the block's number if it is a directory."""
        return self.source if self.block is None else f"{self.source}#{self.block[0]}"

    @property
    def name(self) -> str:
        """A file name of its own, from which the shards' names and the keys come."""
        number = "" if self.block is None else f"-{self.block[0]:05d}"
        return source_name(self.source) + number


def source_name(source: str) -> str:
    """Return what the names of a source's units begin with: its own, and a digest of its path."""
    stem = Path(source).name.partition(".")[0]
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", stem)[:40]
    digest = sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{readable}-{digest[:12]}"


class RawInputs:
    """The collections of one split.

    Args:
        source: `data.train` or `data.test`.
        key: which.
        data: all of `data`.

    Raises:
        UserError: a directory, index or listed file is missing or wrong, a URL stands for nothing,
            or something stands there twice.
    """

    def __init__(self, source: RawSource, key: str, data: PreprocessingData) -> None:
        self._data, self._storage = data, Storage(data.s3)
        self.urls = [
            url if is_s3(url) else os.path.abspath(url)
            for url in (expand(source.urls, self._storage, f"{key}.urls") if source.urls else ())
        ]
        self.directories: dict[str, Files] = {}
        for directory in source.dir_list:
            path = os.path.abspath(directory)
            if path in self.directories:
                raise UserError(f"{key}.dir_list: {directory} stands there twice")
            self.directories[path] = open_files([path], f"{key}.dir_list", data.sample_rate)

    def check(self) -> None:
        """See that the tar files are there.

        Raises:
            UserError: those that do not exist, all together.
            StorageError: storage cannot be reached.
        """
        self._stamps()

    def units(self, unit_samples: int, crop_samples: int | None) -> list[Unit]:
        """List the units of work.

        Args:
            unit_samples: the most that a block's crops hold together, unless one does alone.
            crop_samples: the most that is taken of a file; None for all of it.

        Raises:
            UserError: tar files that do not exist, all together.
            StorageError: storage cannot be reached.
        """
        stamps = self._stamps()
        tars = [
            Unit(url, stamp, stamp[0] / _BYTES_A_SECOND)
            for url, stamp in zip(self.urls, stamps, strict=True)
        ]
        blocks = (
            self._blocks(directory, unit_samples, crop_samples) for directory in self.directories
        )
        return [*tars, *(block for of_directory in blocks for block in of_directory)]

    def recordings(self, unit: Unit) -> Iterator[tuple[str, Recording | UserError]]:
        """Yield every recording of a unit, or why it is none, with an id of its own for ever.

        Raises:
            ShardError: the tar is empty, damaged, or holds pairs; what came before is whole.
            StorageError: storage cannot be reached.
        """
        if unit.block is not None:
            files = self.directories[unit.source]
            for file in (files[number] for number in range(*unit.block[1:])):
                yield f"{unit.source}/{file.entry.file_path}", file
            return
        if unit.stamp[0] == 0:  # its size
            raise ShardError(f"{printable(unit.source)} is empty")
        with self._storage.open(unit.source) as tar:
            for sample in read_samples(tar, unit.source):
                for name, recording in open_recordings(sample, unit.source):
                    yield f"{unit.source}/{name}", recording

    def _stamps(self) -> list[list[Any]]:
        found = list(map_in_threads(self._stamp, self.urls, STAMP_THREADS))
        report([str(stamp) for stamp in found if isinstance(stamp, UserError)])
        return [stamp for stamp in found if not isinstance(stamp, UserError)]

    def _stamp(self, url: str) -> list[Any] | UserError:
        try:
            return self._storage.stamp(url)
        except StorageError:
            raise
        except UserError as error:
            return error

    def _blocks(
        self, directory: str, unit_samples: int, crop_samples: int | None
    ) -> Iterator[Unit]:
        files, rate = self.directories[directory], self._data.sample_rate
        paths = (files[place].path for place in range(len(files)))
        stamps = map_in_threads(_file_stamp, paths, STAMP_THREADS)
        number, first, held, seconds, digest = 0, 0, 0, 0.0, sha256()
        for place, stamp in enumerate(stamps):
            file = files[place]
            length = file.num_samples(rate)
            taken = length if crop_samples is None else min(length, crop_samples)
            if held and held + taken > unit_samples:
                yield Unit(directory, [digest.hexdigest()], seconds, (number, first, place))
                number, first, held, seconds, digest = number + 1, place, 0, 0.0, sha256()
            held, seconds = held + taken, seconds + taken / rate
            digest.update(f"{file.entry} {stamp}\n".encode())
        yield Unit(directory, [digest.hexdigest()], seconds, (number, first, len(files)))


def _file_stamp(path: Path) -> tuple[int, int] | None:
    """Return size and time of change, of what a link leads to; what is missing fails when read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
