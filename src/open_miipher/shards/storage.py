"""Bytes by URL: local paths, and objects in S3-compatible stores."""

import errno
import io
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.shards import local

T = TypeVar("T")
S3_SCHEME = "s3://"
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0
# What a store answers to a request that it will not fulfil, however often it is asked.
_FINAL = (errno.EINVAL, errno.EPERM, getattr(errno, "EREMCHG", errno.ENOENT))


class StorageError(UserError):
    """Storage that cannot be reached, or refuses; not the fault of what is stored there."""

    may_pass = True


@dataclass(frozen=True)
class S3Config:
    """How S3-compatible storage is reached; credentials come from the environment or a profile.

    Attributes:
        endpoint_url: of the store; None for Amazon's own.
        profile: section of ~/.aws/credentials and ~/.aws/config; None for the environment's.
        retries: how often a request is tried again, after waits that grow to 20 s.
        timeout_seconds: for a connection, and for an answer.
    """

    endpoint_url: str | None = None
    profile: str | None = None
    retries: int = 8
    timeout_seconds: float = 20.0

    def rules(self, key: str) -> dict[str, bool]:
        """Return what must be true of the numbers, and whether it is; `key` begins each rule."""
        return {
            f"{key}.retries must not be negative": self.retries >= 0,
            f"{key}.timeout_seconds must be above 0": self.timeout_seconds > 0,
        }


@dataclass(frozen=True)
class Storage:
    """Reads files and objects; may be copied into other processes at any time.

    Attributes:
        s3: for URLs that begin with s3://; all others are paths.
    """

    s3: S3Config = field(default_factory=S3Config)

    def size(self, url: str) -> int:
        """Return the size in bytes.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be asked.
        """
        return int(self._ask(url, lambda: self._filesystem(url).size(url)))

    def read(self, url: str, start: int, end: int) -> bytes:
        """Read bytes `start` to `end`; fewer if the file ends before.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be read, also after the retries.
        """
        if start >= end:
            return b""
        read = partial(self._filesystem(url).cat_file, url, start=start, end=end)
        return self._ask(url, lambda: _nothing_behind_the_end(read))

    def open(self, url: str) -> BinaryIO:
        """Open for reading, with seeking; the file raises as `read` does.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be read, also after the retries.
        """
        file = self._ask(url, lambda: self._filesystem(url).open(url, "rb"))
        return cast(BinaryIO, io.BufferedReader(_File(file, partial(self._ask, url)), _BLOCK))

    def find(self, url: str, suffixes: tuple[str, ...]) -> list[str]:
        """List what lies in a folder, or under a prefix, and below, sorted; [] without one.

        Symbolic links are followed.

        Raises:
            UserError: there is no such bucket, or a local folder cannot be listed.
            StorageError: it cannot be listed.
        """
        return _ending(self._ask(url, lambda: self._below(url)), suffixes)

    def glob(self, pattern: str, suffixes: tuple[str, ...]) -> list[str]:
        """List what a pattern with *, ?, [] or ** matches, sorted; links and errors as `find`.

        A folder that it matches stands for what lies in it and below.
        """
        if not is_s3(pattern):
            return _ending(self._ask(pattern, lambda: local.match(_absolute(pattern))), suffixes)
        found = self._ask(pattern, lambda: self._s3_filesystem.glob(pattern, detail=True))
        files = [self._url(name) for name, info in found.items() if info["type"] == "file"]
        folders = [self._url(name) for name, info in found.items() if info["type"] != "file"]
        below = [self.find(folder, suffixes) for folder in _outermost(folders)]
        return _ending(chain(files, *below), suffixes)

    def identity(self, url: str) -> str:
        """Return what is the same for all spellings of a local path; of an object, its URL.

        Raises:
            UserError: no path can be spelled so.
        """
        if is_s3(url):
            return url
        return self._ask(url, lambda: os.path.realpath(_absolute(url)))

    def stamp(self, url: str) -> list[Any]:
        """Return what tells that a file was changed: its size and time of change, or its ETag.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be asked.
        """
        if not is_s3(url):
            status = self._ask(url, Path(url).stat)
            return [status.st_size, status.st_mtime_ns]
        info = self._ask(url, lambda: self._filesystem(url).info(url))
        return [info["size"], info.get("ETag")]

    def _below(self, url: str) -> list[str]:
        if not is_s3(url):
            return local.find(_absolute(url))
        return [self._url(name) for name in self._s3_filesystem.find(url)]

    def _filesystem(self, url: str) -> Any:
        return self._s3_filesystem if is_s3(url) else _local_filesystem()

    @property
    def _s3_filesystem(self) -> Any:
        # Connections and their thread do not survive a fork: each process has its own.
        own = self._by_process
        return own.get(os.getpid()) or own.setdefault(os.getpid(), self._connect())

    @cached_property
    def _by_process(self) -> dict[int, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {"s3": self.s3}

    def _connect(self) -> Any:
        from s3fs import S3FileSystem

        s3 = self.s3
        filesystem = S3FileSystem(
            endpoint_url=s3.endpoint_url,
            profile=s3.profile,
            config_kwargs={
                "retries": {"total_max_attempts": 1},
                "connect_timeout": s3.timeout_seconds,
                "read_timeout": s3.timeout_seconds,
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        # botocore's retries end before a body is read, s3fs's after a second and know neither
        # lists nor refused connections, and both together multiply: `_ask` alone tries again.
        filesystem.retries = 1
        return filesystem

    @staticmethod
    def _url(name: str) -> str:
        return name if is_s3(name) else f"{S3_SCHEME}{name}"

    def _ask(self, url: str, action: Callable[[], T]) -> T:
        """Do something with a store; ask again if it fails, and tell at last in one sentence."""
        where = f" at {self.s3.endpoint_url}" if self.s3.endpoint_url and is_s3(url) else ""
        tries = self.s3.retries if is_s3(url) else 0
        for wait in (*(_FIRST_WAIT_SECONDS * 2**k for k in range(tries)), None):
            try:
                return action()
            except FileNotFoundError as error:
                raise UserError(f"{printable(url)}{where} does not exist") from error
            except _errors(url).refusals as error:
                mend = "; check the credentials, or the profile" if is_s3(url) else ""
                raise StorageError(f"{printable(url)}{where} refuses: {error}{mend}") from error
            except _errors(url).malformed as error:
                raise UserError(f"{printable(url)}{where}: {_first_line(error)}") from error
            except _errors(url).failures as error:
                if not is_s3(url) or (isinstance(error, OSError) and error.errno in _FINAL):
                    raise StorageError(f"{printable(url)}{where}: {_first_line(error)}") from error
                if wait is None:
                    raise StorageError(
                        f"{printable(url)}{where} cannot be reached, also after {tries} retries: "
                        f"{_first_line(error)}"
                    ) from error
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise AssertionError("the last try returns or raises")


class _File(io.RawIOBase):
    """A file whose errors are told, and reads tried again, as the storage does."""

    def __init__(self, file: BinaryIO, ask: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file, self._ask = file, ask

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._ask(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


_BLOCK = 1 << 20


class _Errors(NamedTuple):
    """What storage raises, by what it means."""

    refusals: tuple[type[Exception], ...]
    malformed: tuple[type[Exception], ...]
    failures: tuple[type[Exception], ...]


def _errors(url: str) -> _Errors:
    return _s3_errors() if is_s3(url) else _Errors((PermissionError,), (ValueError,), (OSError,))


@cache
def _s3_errors() -> _Errors:
    import aiohttp  # slow to import, as all of this
    import botocore.exceptions as boto
    from botocore.parsers import ResponseParserError

    refusals = (
        PermissionError,
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.ProfileNotFound,
    )
    malformed = (
        boto.ParamValidationError,
        boto.ValidationError,
        boto.InvalidConfigError,
        ValueError,
    )
    failures = (OSError, boto.BotoCoreError, ResponseParserError, aiohttp.ClientError)
    return _Errors(refusals, malformed, failures)


@cache
def _local_filesystem() -> Any:
    from fsspec.implementations.local import LocalFileSystem  # slow to import

    return LocalFileSystem()


def _nothing_behind_the_end(read: Callable[[], bytes]) -> bytes:
    """Read a range; a store calls one that begins behind the end of the object invalid."""
    try:
        return read()
    except OSError as error:
        answer = getattr(error.__cause__, "response", {})
        if answer.get("Error", {}).get("Code") in ("InvalidRange", "416"):
            return b""
        raise


def _absolute(path: str) -> str:
    return str(_local_filesystem()._strip_protocol(path))


def _ending(names: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    """Return the names with these endings, each once, sorted."""
    return sorted({name for name in names if name.endswith(suffixes)})


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return the folders that lie in none of the others."""
    kept: list[str] = []
    for folder in sorted(f"{folder.rstrip('/')}/" for folder in folders):
        if not kept or not folder.startswith(kept[-1]):
            kept.append(folder)
    return kept


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_s3(url: str) -> bool:
    """Whether a URL names an object in an S3-compatible store."""
    return url.startswith(S3_SCHEME)
