"""Write shards; a file with a shard's name is always complete."""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from open_miipher.base.atomic import put_in_place, temporary_path
from open_miipher.shards.archive import INDEX_FORMAT, INDEX_MEMBER, Sample


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes a shard under a temporary name and renames it once it is complete and on the disk.

    The bytes depend only on the samples.

    Args:
        path: path of the shard; its folder must exist.

    Attributes:
        num_bytes: bytes written so far.

    Raises:
        OSError: writing failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = temporary_path(path)
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - open until it is finished
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._bounds: list[int] = []

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, sample: Sample) -> None:
        """Append a sample, or a file that belongs to none."""
        if any(sample.members):
            self._bounds.append(self._tar.offset)
        for path, data in zip(sample.paths(), sample.members.values(), strict=True):
            self._add(path, data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def finish(self) -> None:
        """Have the shard whole on the disk, under its name, as at the end of a `with` block."""
        try:
            self._bounds.append(self._tar.offset)
            index = {"format": INDEX_FORMAT, "bounds": self._bounds}
            self._add(INDEX_MEMBER, json.dumps(index).encode())
            self._tar.close()
            self._file.close()
            put_in_place(self._temporary, self._path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not finished, as where a `with` block ends in an error."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _add(self, path: str, data: bytes) -> None:
        header = tarfile.TarInfo(path)
        header.size, header.mode = len(data), 0o644
        self._tar.addfile(header, io.BytesIO(data))


def assign_keys(paths: Iterable[str]) -> Iterator[str]:
    """Give every path of a shard a key of its own.

    A key is the path without extension; a dot would end it, and readers pass over `__name__`: dots
    of the file name become `_`, and so do underscores at the start. Where it is taken, `_2`, `_3` …
    are added.
    """
    taken = set()
    for path in paths:
        folder, slash, name = str(PurePosixPath(path).with_suffix("")).rpartition("/")
        base = re.sub("^_+", "_", f"{folder}{slash}{name.replace('.', '_')}")
        further = (f"{base}_{number}" for number in itertools.count(2))
        key = next(key for key in itertools.chain([base], further) if key not in taken)
        taken.add(key)
        yield key


def member_name(name: str, extension: str, taken: Collection[str]) -> str:
    """Name a restored member of a sample: `noisy.flac` becomes `noisy.wav`, `flac` `wav`.

    Args:
        name: of the member in the input.
        extension: of the outputs, without the dot.
        taken: names of the sample's other members; where it is one of them, the member's own
            extension is kept inside the name.
    """
    stem, _, own = name.rpartition(".")
    new = f"{stem}.{extension}" if stem else extension
    while new in taken:
        stem = f"{stem}.{own}" if stem else own
        new = f"{stem}.{extension}"
    return new
