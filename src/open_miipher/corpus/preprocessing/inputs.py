"""Raw collections: directories with an index, and tar files; cut into units of work."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AudioInfo
from open_miipher.audio.recording import Recording
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import check_apart, file_identity, file_stamp, printable
from open_miipher.base.threads import in_threads
from open_miipher.corpus.inputs import Inputs, stored_stamp
from open_miipher.corpus.preprocessing.config import PreprocessingOptions
from open_miipher.corpus.run import Item
from open_miipher.data.config import PreprocessingData, RawSource
from open_miipher.data.files import File, Files, open_files
from open_miipher.shards import (
    ShardError,
    Storage,
    expand,
    is_s3,
    open_recordings,
    read_samples,
)

_BYTES_A_SECOND = 40_000  # of speech in a tar, about: an hour more or less only shows in progress


@dataclass(frozen=True)
class Unit:
    """Where a unit of work lies: a tar file, or files of a directory that follow each other.

    Attributes:
        source: URL of the tar, or the directory; absolute paths.
        block: number of the first file and of the one after the last; None for a tar.
        files: those of the block, once the unit is handed to a worker.
    """

    source: str
    block: tuple[int, int] | None = None
    files: tuple[File, ...] = ()


def unit_name(item: str) -> str:
    """Return the name of a unit from its id: what can be read, a digest, the block's number.

    A tar's id ends with an extension, so that a number behind a `#` is a block's.
    """
    source, _, number = item.rpartition("#") if re.search(r"#\d+$", item) else (item, "", "")
    stem = Path(source).name.partition(".")[0]
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", stem)[:40]
    digest = sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{readable}-{digest[:12]}" + (f"-{int(number):05d}" if number else "")


class RawInputs(Inputs):
    """The collections of one split, in units.

    Args:
        data: all of `data`.
        options: all of `preprocess`.
        section: of `data`: `train` or `test`.

    Attributes:
        urls: the tar files.
        directories: their files, by absolute path.

    Raises:
        UserError: a directory, index or listed file is missing or wrong, a URL stands for nothing,
            or something stands there twice.
    """

    unit, called_failed = "inputs", "could not be read in full"

    def __init__(
        self, data: PreprocessingData, options: PreprocessingOptions, section: str
    ) -> None:
        self._data, self._options, self._storage = data, options, Storage(data.s3)
        source: RawSource = getattr(data, section)
        key = f"data.{section}"
        self._given = [*source.dir_list, *source.urls]
        self._units: dict[str, tuple[list[Any], float, Unit]] = {}  # stamp, seconds, what it is
        urls = expand(source.urls, self._storage, f"{key}.urls") if source.urls else []
        self.urls = [url if is_s3(url) else os.path.abspath(url) for url in urls]
        self.directories: dict[str, Files] = {}
        for directory in source.dir_list:
            path = os.path.abspath(directory)
            if path in self.directories:
                raise UserError(f"{key}.dir_list: {directory} stands there twice")
            self.directories[path] = open_files([path], f"{key}.dir_list", data.sample_rate)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what workers do not need: an index may have millions of rows."""
        return {**self.__dict__, "_units": {}, "directories": {}}

    def check(self, output_dir: Path) -> None:
        """Refuse outputs among the inputs, and the other way round."""
        mend = "choose another preprocess.output_root"
        check_apart([path for path in self._given if not is_s3(path)], output_dir, mend)
        found = [url for url in self.urls if not is_s3(url)]
        check_apart(found, output_dir, f"{mend}, or take it out of the urls")

    def ids(self) -> list[str]:
        """Cut the collections into units; tar files that do not exist are one `UserError`."""
        found = list(in_threads(lambda url: stored_stamp(self._storage, url), self.urls))
        report([str(stamp) for stamp in found if isinstance(stamp, UserError)])
        self._units = {
            url: (stamp, stamp[0] / _BYTES_A_SECOND, Unit(url))
            for url, stamp in zip(self.urls, found, strict=True)
            if not isinstance(stamp, UserError)
        }
        for directory in self.directories:
            for number, block in enumerate(self._blocks(directory)):
                self._units[f"{directory}#{number}"] = block
        return sorted(self._units)

    def assign(
        self, items: Collection[str], given: Mapping[str, str], extension: str
    ) -> dict[str, str]:
        """Name units by their ids alone."""
        return {item: f"{unit_name(item)}.{extension}" for item in items if item not in given}

    def stamp(self, item: str) -> list[Any]:
        """Return the stamp of the tar, or of all files of the block."""
        return self._units[item][0]

    def look(self, item: str, output: str, stamp: Any) -> Item:
        """Describe a unit; its cost is about the seconds of audio to be read."""
        _, seconds, unit = self._units[item]
        return Item(item, output, seconds, stamp, unit)

    def filled(self, item: Item) -> Item:
        """Add the files of a block, so that a worker needs no index."""
        unit: Unit = item.details
        if unit.block is None:
            return item
        files = self.directories[unit.source]
        own = tuple(files[number] for number in range(*unit.block))
        return replace(item, details=replace(unit, files=own))

    def open(self, item: Item) -> Iterator[tuple[str, Recording | UserError | None]]:
        """Yield every recording of a unit, or why it is none, with an id of its own for ever.

        Members of a tar that have nothing to do with audio come with None.

        Raises:
            ShardError: the tar is empty, damaged, or holds pairs; what came before is whole.
            StorageError: storage cannot be reached.
        """
        unit: Unit = item.details
        for file in unit.files:
            yield f"{unit.source}/{file.entry.file_path}", file
        if unit.block is not None:
            return
        if item.stamp[0] == 0:  # its size
            raise ShardError(f"{printable(unit.source)} is empty")
        with self._storage.open(unit.source) as tar:
            for sample in read_samples(tar, unit.source, with_rest=True):
                for name, recording in open_recordings(sample, unit.source):
                    yield f"{unit.source}/{name}", recording

    def _blocks(self, directory: str) -> Iterator[tuple[list[Any], float, Unit]]:
        """Cut a directory into blocks whose crops fill a shard at most, unless one does alone."""
        files, rate = self.directories[directory], self._data.sample_rate
        most = self._options.shard_maxcount * self._data.sample_samples
        paths = (files[place].path for place in range(len(files)))
        first, held, seconds, digest = 0, 0, 0.0, sha256()
        for place, stamp in enumerate(in_threads(file_stamp, paths)):
            file = files[place]
            taken = file.num_samples(rate)
            if self._options.crops == "all":
                taken *= file.info.num_channels
            else:
                taken = min(taken, self._data.crop_samples)
            if held and held + taken > most:
                yield [digest.hexdigest()], seconds, Unit(directory, (first, place))
                first, held, seconds, digest = place, 0, 0.0, sha256()
            held, seconds = held + taken, seconds + taken / rate
            digest.update(f"{file.entry} {stamp and tuple(stamp)}\n".encode())
        yield [digest.hexdigest()], seconds, Unit(directory, (first, len(files)))


def check_splits(train: RawInputs, test: RawInputs) -> None:
    """Refuse what is to be trained on and tested with.

    Of the listed files only those that some file of the other split equals in rate, length and
    channels are asked for who they are: of millions, few.

    Raises:
        UserError: a file or directory stands in both, under whatever name.
    """
    both = {*train.urls, *train.directories} & {*test.urls, *test.directories}
    report([f"{printable(n)} stands in data.train and in data.test" for n in sorted(both)])
    kinds = {file.info for file in _files(test)}

    def identified(inputs: RawInputs) -> Iterator[tuple[tuple[int, ...] | None, Path]]:
        paths = _local_paths(inputs, kinds)
        return in_threads(lambda path: (file_identity(path), path), paths)

    tested = dict(identified(test))
    for identity, path in identified(train):
        if identity is not None and identity in tested:
            raise UserError(
                f"{printable(path)} of data.train and {printable(tested[identity])} of data.test "
                "are the same file; take it out of one of them"
            )


def _files(inputs: RawInputs) -> Iterator[File]:
    for files in inputs.directories.values():
        yield from (files[number] for number in range(len(files)))


def _local_paths(inputs: RawInputs, kinds: Collection[AudioInfo]) -> Iterator[Path]:
    """Yield where the tars lie that are no objects, and the listed files of these kinds."""
    yield from (Path(url) for url in inputs.urls if not is_s3(url))
    yield from (file.path for file in _files(inputs) if file.info in kinds)
