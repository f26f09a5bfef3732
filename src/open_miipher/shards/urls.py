"""Expand what a user writes to a list of shards: folders, patterns, braces, text files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

from braceexpand import braceexpand

from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
from open_miipher.shards.storage import Storage, is_s3

EXTENSIONS = (".tar", ".tar.gz", ".tgz")
MANIFEST_EXTENSION = ".txt"


def expand(urls: Sequence[str], storage: Storage, key: str, s3_only: bool = False) -> list[str]:
    """Find the shards that URLs mean.

    A URL is one of these, each a path or an s3:// URI:

    - a shard;
    - a folder, which means all shards in it and below it;
    - a pattern with `*`, `?`, `[…]` or `**`, which means the shards and folders that it matches;
    - any of these with braces (`{000..099}`, `{a,b}`), which expand to several URLs;
    - a text file (.txt) with a URL on each line; empty lines and lines that begin with `#` are
      skipped.

    Symbolic links are followed. If a path exists that looks like a pattern, it is that path.

    Args:
        urls: at least one URL.
        storage: where to look.
        key: their key in the configuration, for messages.
        s3_only: a shard that is no s3:// URI is an error.

    Returns:
        The shards, each once, in the given order, sorted within a folder or pattern. If a folder or
        pattern contains a shard under several names, the first name is taken.

    Raises:
        UserError: a URL means nothing or is malformed, or two URLs mean the same shard, also with
            another spelling or through a link.
        StorageError: storage cannot be reached.
    """
    shards: dict[str, tuple[str, str]] = {}  # by identity: the name, and the URL that led to it
    problems = []
    for where, url in _lines(urls, key, storage):
        found = _once(_find(url, storage), storage)
        if not found:
            problems.append(f"{where}: {printable(url)} holds no shards ({', '.join(EXTENSIONS)})")
        for identity, shard in found.items():
            if identity in shards:
                first, through = shards[identity]
                other = "" if first == shard else f"as {printable(first)} "
                problems.append(
                    f"{where}: {printable(shard)} stands there twice, also {other}through "
                    f"{printable(through)}"
                )
            elif s3_only and not is_s3(shard):
                problems.append(
                    f"{where}: {printable(shard)} is no s3:// URI, as is_s3=true asks for"
                )
            else:
                shards[identity] = shard, url
    report(problems)
    return [shard for shard, _ in shards.values()]


def names_below(urls: Sequence[str], key: str) -> dict[str, str]:
    """Return shards by their names: their paths below the innermost folder that holds them all.

    Args:
        urls: of shards, from `expand`.
        key: as there.

    Raises:
        UserError: two shards get one name, or an object's name cannot be a path.
    """
    found: dict[str, str] = {}
    places = {url: _place(url, key) for url in urls}
    folders = zip(*(place[:-1] for place in places.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, folders))
    for url, place in places.items():
        name = "/".join(place[common:])
        if name in found:
            raise UserError(
                f"{key}: {url} and {found[name]} would both become {name}; restore them into two "
                "output directories"
            )
        found[name] = url
    return found


def _place(url: str, key: str) -> tuple[str, ...]:
    """Return the parts of where a shard lies."""
    parts = PurePosixPath(url if is_s3(url) else os.path.abspath(url).lstrip("/")).parts
    if ".." in parts:
        raise UserError(f"{key}: {url} has a .. in its name; rename it")
    return parts


def _once(shards: Iterable[str], storage: Storage) -> dict[str, str]:
    """Return shards by their identity, each under the first of its names."""
    found: dict[str, str] = {}
    for shard in shards:
        found.setdefault(storage.identity(shard), shard)
    return found


def _lines(urls: Sequence[str], key: str, storage: Storage) -> Iterator[tuple[str, str]]:
    """Yield each URL with its place, for messages; expands braces and reads text files."""
    for url in urls:
        for plain in _braces(url, key):
            if not plain.endswith(MANIFEST_EXTENSION):
                yield key, plain
                continue
            for number, line in enumerate(_text(plain, key, storage).splitlines(), start=1):
                if line.strip() and not line.lstrip().startswith("#"):
                    where = f"{printable(plain)}, line {number}"
                    yield from ((where, url) for url in _braces(line.strip(), where))


def _text(url: str, key: str, storage: Storage) -> str:
    """Read a text file without the byte order mark that editors on Windows put before it."""
    try:
        with storage.open(url) as file:
            return file.read().decode("utf-8-sig")
    except UserError as error:
        raise type(error)(f"{key}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {printable(url)} is no text in UTF-8: {error}") from error


def _braces(url: str, where: str) -> Iterator[str]:
    try:
        yield from braceexpand(url)
    except ValueError as error:
        raise UserError(f"{where}: the braces of {printable(url)} do not match") from error


def _find(url: str, storage: Storage) -> list[str]:
    if any(letter in url for letter in "*?[") and not os.path.lexists(url):
        return storage.glob(url, EXTENSIONS)
    if url.endswith(EXTENSIONS):
        return [url]  # whether it exists is found when it is read
    return storage.find(url, EXTENSIONS)
