"""Bytes by URL: local paths, and objects in S3-compatible stores."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import botocore.exceptions
from fsspec.implementations.local import LocalFileSystem

from open_miipher.audio.io import printable
from open_miipher.errors import UserError

S3_SCHEME = "s3://"


class StorageError(UserError):
    """Storage that cannot be reached, or refuses; not the fault of what is stored there."""


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
        with self._errors(url):
            return int(self._filesystem(url).size(url))

    def read(self, url: str, start: int, end: int) -> bytes:
        """Read bytes `start` to `end`; fewer if the file ends before.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be read, also after the retries.
        """
        with self._errors(url):
            if start >= end:
                return b""
            return cast(bytes, self._filesystem(url).cat_file(url, start=start, end=end))

    def open(self, url: str) -> BinaryIO:
        """Open for reading, with seeking; the file raises as `read` does.

        Raises:
            UserError: there is nothing of that name.
            StorageError: it cannot be read, also after the retries.
        """
        with self._errors(url):
            file = self._filesystem(url).open(url, "rb")
        return cast(BinaryIO, io.BufferedReader(_File(file, partial(self._errors, url)), _BLOCK))

    def find(self, url: str, suffixes: tuple[str, ...]) -> list[str]:
        """List what lies in a folder, or under a prefix, and below, sorted.

        Raises:
            UserError: there is no such folder.
            StorageError: it cannot be listed.
        """
        with self._errors(url):
            found = self._filesystem(url).find(url)
        return sorted(self._url(url, name) for name in found if name.endswith(suffixes))

    def glob(self, pattern: str) -> list[str]:
        """List what a pattern with *, ?, [] or ** matches, sorted."""
        with self._errors(pattern):
            found = self._filesystem(pattern).glob(pattern)
        return sorted(self._url(pattern, name) for name in found)

    def is_folder(self, url: str) -> bool:
        """Whether it is a folder, or a prefix of objects."""
        with self._errors(url):
            return bool(self._filesystem(url).isdir(url))

    def stamp(self, url: str) -> list[Any]:
        """Return what tells that a file was changed: its size and time of change, or its ETag."""
        with self._errors(url):
            if not is_s3(url):
                status = Path(url).stat()
                return [status.st_size, status.st_mtime_ns]
            info = self._filesystem(url).info(url)
            return [info["size"], info.get("ETag")]

    def _filesystem(self, url: str) -> Any:
        return self._s3_filesystem if is_s3(url) else _LOCAL

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
        return S3FileSystem(
            endpoint_url=s3.endpoint_url,
            profile=s3.profile,
            config_kwargs={
                # s3fs retries by itself, once a request; botocore does it with growing waits.
                "retries": {"mode": "standard", "max_attempts": s3.retries + 1},
                "connect_timeout": s3.timeout_seconds,
                "read_timeout": s3.timeout_seconds,
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    @staticmethod
    def _url(like: str, name: str) -> str:
        return f"{S3_SCHEME}{name}" if is_s3(like) and not is_s3(name) else name

    @contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        """Turn what the file systems raise into one sentence."""
        where = f" at {self.s3.endpoint_url}" if self.s3.endpoint_url and is_s3(url) else ""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{printable(url)}{where} does not exist") from error
        except (
            PermissionError,
            botocore.exceptions.NoCredentialsError,
            botocore.exceptions.ProfileNotFound,
        ) as error:
            mend = "; check the credentials or data.s3.profile" if is_s3(url) else ""
            raise StorageError(f"{printable(url)}{where} refuses: {error}{mend}") from error
        except (OSError, botocore.exceptions.BotoCoreError) as error:
            if not is_s3(url):
                raise StorageError(f"{printable(url)}: {error}") from error
            raise StorageError(
                f"{printable(url)}{where} cannot be reached, also after {self.s3.retries} "
                f"retries: {error}"
            ) from error


class _File(io.RawIOBase):
    """A file whose errors are told as the storage tells them."""

    def __init__(self, file: BinaryIO, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._file, self._errors = file, errors

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


_LOCAL = LocalFileSystem()
_BLOCK = 1 << 20


def is_s3(url: str) -> bool:
    """Whether a URL names an object in an S3-compatible store."""
    return url.startswith(S3_SCHEME)
