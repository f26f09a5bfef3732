"""From what a user writes to a list of shards: folders, patterns, braces, lists in text files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from braceexpand import braceexpand

from open_miipher.errors import UserError, report
from open_miipher.shards.storage import Storage, is_s3

EXTENSIONS = (".tar", ".tar.gz", ".tgz")
MANIFEST_EXTENSION = ".txt"


def expand(urls: Sequence[str], storage: Storage, key: str, s3_only: bool = False) -> list[str]:
    """Find the shards that URLs stand for.

    A URL is a shard; a folder, which stands for all shards in and below it; a pattern with `*`,
    `?`, `[…]` or `**`; any of these with braces (`{000..099}`, `{a,b}`), which stand for one URL
    each; or a text file (.txt) with a URL a line, where empty lines and those that begin with `#`
    are passed over. Each may be a path or an s3:// URI.

    Args:
        urls: at least one.
        storage: where to look.
        key: where they stand in the configuration, for messages.
        s3_only: refuse a shard that is no s3:// URI.

    Returns:
        The shards, each once, in the order given, sorted within a folder or pattern.

    Raises:
        UserError: a URL stands for nothing, is malformed, or a shard is named twice.
        StorageError: storage cannot be reached.
    """
    shards: dict[str, str] = {}
    problems = []
    for where, url in _lines(urls, key):
        found = _find(url, storage)
        if not found:
            problems.append(f"{where}: {url} holds no shards ({', '.join(EXTENSIONS)})")
        for shard in found:
            if shard in shards:
                problems.append(
                    f"{where}: {shard} stands there twice, also through {shards[shard]}"
                )
            elif s3_only and not is_s3(shard):
                problems.append(f"{where}: {shard} is no s3:// URI, as is_s3=true asks for")
            else:
                shards[shard] = url
    report(problems)
    return list(shards)


def _lines(urls: Sequence[str], key: str) -> Iterator[tuple[str, str]]:
    """Yield where a URL stands, and the URL: braces expanded, text files read."""
    for url in urls:
        for plain in _braces(url, key):
            if not plain.endswith(MANIFEST_EXTENSION):
                yield key, plain
                continue
            try:
                lines = Path(plain).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{key}: {plain} cannot be read: {error}") from error
            for number, line in enumerate(lines, start=1):
                if line.strip() and not line.lstrip().startswith("#"):
                    where = f"{plain}, line {number}"
                    yield from ((where, url) for url in _braces(line.strip(), where))


def _braces(url: str, where: str) -> Iterator[str]:
    try:
        yield from braceexpand(url)
    except ValueError as error:
        raise UserError(f"{where}: the braces of {url} do not match") from error


def _find(url: str, storage: Storage) -> list[str]:
    if any(letter in url for letter in "*?["):
        return [found for found in storage.glob(url) if found.endswith(EXTENSIONS)]
    if url.endswith(EXTENSIONS):
        return [url]  # whether it is there shows when it is read
    return storage.find(url, EXTENSIONS)
