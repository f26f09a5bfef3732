"""Shards: tar files of samples, in the WebDataset convention.

Members with the same path up to the first dot of their file name are one sample. That path is the
sample's key, the rest is the member's name. The members of a sample follow each other. A member
whose file name has no dot, or begins with one, belongs to no sample; most readers skip it.

Shards that this project writes end with a member `__index__`, which WebDataset readers skip. It
says where each sample begins, so that the headers need not be read. A shard without it is read
through once.
"""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from open_miipher.base.content import HEAD_BYTES, compression, describe
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.shards.storage import Storage

INDEX_MEMBER = "__index__"
_BLOCK = tarfile.BLOCKSIZE
_TAIL_BYTES = 1 << 18
INDEX_FORMAT = "open-miipher-2 shard index 1"
_META = re.compile(r"__[^/]*__(/|$)")  # names that WebDataset's readers skip


class ShardError(UserError):
    """A shard or a sample is damaged; the message names it."""


@dataclass(frozen=True)
class Sample:
    """One sample of a shard.

    Attributes:
        key: path in the shard, up to the first dot of the file name.
        members: contents by name; a name is the rest of the path after that dot. A file that
            belongs to no sample (`README`) has its whole path as key, and the name "".
    """

    key: str
    members: Mapping[str, bytes]

    def paths(self) -> Iterator[str]:
        """Yield the members' paths in the shard."""
        return (f"{self.key}.{name}" if name else self.key for name in self.members)


@dataclass(frozen=True)
class ShardIndex:
    """The places of a shard's samples.

    Attributes:
        url: URL or path of the shard.
        bounds: (samples + 1,) int64: sample k is the bytes from bounds[k] to bounds[k + 1].
    """

    url: str
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def read(self, storage: Storage, number: int) -> Sample:
        """Read one sample.

        Raises:
            ShardError: the sample is damaged.
            StorageError: the storage cannot be reached.
        """
        start, end = (int(bound) for bound in self.bounds[number : number + 2])
        data = storage.read(self.url, start, end)
        if len(data) < end - start:
            raise ShardError(f"{printable(self.url)} is truncated: sample {number} is incomplete")
        keys, members = set[str](), dict[str, bytes]()
        with _opened(io.BytesIO(data), self.url, at_random=True) as tar:
            for header in _headers(tar, self.url, end=len(data)):
                place = split_name(header.name, self.url)
                if place is None:
                    continue
                key, name = place
                keys.add(key)
                # A slice is several times as fast as reading through tarfile.
                members[name] = data[header.offset_data : header.offset_data + header.size]
        if len(keys) != 1:
            raise ShardError(f"{printable(self.url)}: its index is wrong at sample {number}")
        return Sample(keys.pop(), members)


def read_index(storage: Storage, url: str) -> ShardIndex:
    """Find a shard's samples in its own index, or by reading all headers.

    Raises:
        ShardError: the shard is damaged, truncated, compressed, or without samples.
        StorageError: the storage cannot be reached.
    """
    if is_compressed(url):
        raise ShardError(
            f"{printable(url)} is compressed, so its samples cannot be read at random; unpack it"
        )
    size = storage.size(url)
    if size == 0:
        raise ShardError(f"{printable(url)} is empty")
    start = max(0, size - _TAIL_BYTES) // _BLOCK * _BLOCK
    tail = storage.read(url, start, size)
    bounds = _own_bounds(tail, start)
    if bounds is None:
        with storage.open(url) as file:
            bounds = _scan(file, url)
    if len(bounds) < 2:
        raise ShardError(f"{printable(url)} holds no samples")
    return ShardIndex(url, np.asarray(bounds, np.int64))


def read_samples(file: BinaryIO, url: str, with_rest: bool = False) -> Iterator[Sample]:
    """Yield the samples of a tar stream in order; each is read into memory as a whole.

    Args:
        file: the stream, at its start.
        url: its name, for messages. Whether it is compressed (gzip, bzip2, xz) its bytes say.
        with_rest: give also what belongs to no sample, before the sample that it stands in.

    Raises:
        ShardError: the shard is damaged or truncated, a path has `..`, or the members of a sample
            do not follow each other.
    """
    key, members, seen = "", dict[str, bytes](), set[str]()
    with _opened(file, url) as tar:
        for header in _headers(tar, url):
            try:
                place = split_name(header.name, url)
            except ShardError:
                if members:
                    yield Sample(key, members)
                raise
            if place is None:
                if with_rest:
                    yield Sample(header.name, {"": _content(tar, header)})
                continue
            own_key, name = place
            if own_key != key:
                if members:
                    yield Sample(key, members)  # complete, even if the next one is truncated
                if own_key in seen:
                    raise ShardError(
                        f"{printable(url)}: the members of {printable(own_key)} do not stand "
                        "together"
                    )
                seen.add(own_key)
                key, members = own_key, {}
            if name in members:
                raise ShardError(f"{printable(url)}: {printable(header.name)} stands there twice")
            members[name] = _content(tar, header)
    if members:
        yield Sample(key, members)


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    return cast(BinaryIO, tar.extractfile(header)).read()


def visit_members(file: BinaryIO, url: str, visit: Callable[[str, str, BinaryIO], None]) -> None:
    """Call `visit` with key, name and content of every member, in order.

    Content that `visit` does not read is skipped.

    Raises:
        ShardError: the shard is damaged or truncated, or a path has `..`.
    """
    with _opened(file, url) as tar:
        for header in _headers(tar, url):
            place = split_name(header.name, url)
            if place is not None:
                visit(*place, cast(BinaryIO, tar.extractfile(header)))


def split_name(path: str, url: str) -> tuple[str, str] | None:
    """Split a member's path into the sample's key and the member's name.

    Returns:
        None if the member belongs to no sample: its file name has no dot (`README`), or begins with
        one (such as the file that a Mac adds to each file).

    Raises:
        ShardError: the path leads out of the shard.
    """
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise ShardError(f"{printable(url)}: the member '{printable(path)}' leads out of the shard")
    stem, dot, name = parts.name.partition(".")
    return (str(parts.with_name(stem)), name) if dot and stem else None


def is_compressed(url: str) -> bool:
    """Whether a shard's name says that it is gzipped."""
    return url.endswith((".gz", ".tgz"))


class _Header(tarfile.TarInfo):
    """A header whose damage is an error; tarfile itself takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the end-of-archive mark
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("truncated, its end-of-archive mark is missing") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged at byte {tar.offset}, {error}") from error


@contextmanager
def _opened(file: BinaryIO, url: str, at_random: bool = False) -> Iterator[tarfile.TarFile]:
    """Open an archive; its errors become a ShardError with its name.

    Args:
        file: at its start, and seekable.
        url: its name.
        at_random: refuse a compressed archive, which can only be read in order.
    """
    head = file.read(HEAD_BYTES)
    file.seek(-len(head), io.SEEK_CUR)
    how = compression(head)
    if how is not None and at_random:
        raise ShardError(
            f"{printable(url)} is {how}, so its samples cannot be read at random; unpack it"
        )
    try:
        with _archive(file, "r:" if how is None else "r|*") as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error) as error:
        is_tar = how is not None or head[257:262] == b"ustar"
        content = None if is_tar else describe(head)
        reason = str(error) if content is None else f"it is {content}"
        raise ShardError(f"{printable(url)} cannot be read as a shard: {reason}") from error


def _archive(file: BinaryIO, mode: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode=mode, tarinfo=_Header)  # type: ignore[call-overload]
    except TypeError as error:  # what tarfile makes of a cut header of gzip
        raise tarfile.ReadError("truncated in its first bytes") from error


def _headers(tar: tarfile.TarFile, url: str, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of regular files, up to byte `end` or the end-of-archive mark.

    After each, the archive is positioned after that member.
    """
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined] # otherwise it would keep them all
        if member.issym() or member.islnk():
            raise ShardError(
                f"{printable(url)}: the member '{printable(member.name)}' is a link; pack the "
                "file itself"
            )
        if member.isfile() and not _META.match(member.name):
            yield member
        if tar.offset == end:
            break


def _scan(file: BinaryIO, url: str) -> list[int]:
    """Return where each sample begins, and where the last one ends; reads only headers."""
    bounds, end, key = list[int](), 0, ""
    with _opened(file, url, at_random=True) as tar:
        for member in _headers(tar, url):
            place = split_name(member.name, url)
            if place is None:
                continue
            if place[0] != key:
                bounds.append(member.offset)
                key = place[0]
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    return [*bounds, end]


def _own_bounds(tail: bytes, start: int) -> list[int] | None:
    """Read the index at the end of a shard; None if there is none, or if it cannot be right.

    Args:
        tail: the shard's last bytes.
        start: position of `tail` in the shard, a multiple of the block size.
    """
    place = tail.rfind(INDEX_MEMBER.encode() + b"\0")
    if place < 0 or place % _BLOCK:
        return None
    try:
        header = tarfile.TarInfo.frombuf(tail[place : place + _BLOCK], "utf-8", "strict")
        index = json.loads(tail[place + _BLOCK : place + _BLOCK + header.size])
        bounds = index["bounds"] if index["format"] == INDEX_FORMAT else []
    except (tarfile.HeaderError, ValueError, TypeError, KeyError):
        return None
    end = place + _BLOCK + -(-header.size // _BLOCK) * _BLOCK
    is_last = len(tail) - end >= 2 * _BLOCK and not any(tail[end:])
    return bounds if is_last and bounds[-1:] == [start + place] else None
