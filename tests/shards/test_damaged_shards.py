"""Whatever a tar does to its parser ends as a UserError, and what came before it is kept."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.shards import Storage, read_index, read_samples, visit_members

SECONDS_PER_SHARD = 10.0


def whole(format: int) -> bytes:
    """A tar with short and long names, letters beyond ASCII, and two members a sample."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for stem in ("a", "n" * 120, "é"):
            for extension in ("wav", "txt"):
                header = tarfile.TarInfo(f"{stem}.{extension}")
                header.size, header.mtime = 300, 1.5 if format == tarfile.PAX_FORMAT else 1
                tar.addfile(header, io.BytesIO(bytes(300)))
    return file.getvalue()


PAX, GNU = whole(tarfile.PAX_FORMAT), whole(tarfile.GNU_FORMAT)
KINDS = {
    "pax": PAX,
    "gnu": GNU,
    "gz": gzip.compress(PAX),
    "bz2": bz2.compress(GNU),
    "xz": lzma.compress(PAX),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a header and mend its checksum, or change, cut or remove bytes anywhere."""
    wrong = bytearray(data)
    headers = [place for place in range(0, len(data), 512) if data[place + 257 :][:5] == b"ustar"]
    place = int(rng.integers(len(data)))
    how = int(rng.integers(5 if headers else 3))
    if how == 0:
        del wrong[place:]
    elif how == 1:
        del wrong[place : place + int(rng.integers(1, 1500))]
    elif how == 2:
        wrong[place : place + 3] = rng.bytes(3)
    else:
        start = headers[rng.integers(len(headers))]
        for _ in range(rng.integers(1, 6)):
            at = start + int(rng.integers(512 if how == 3 else 700))
            wrong[min(at, len(wrong) - 1)] = rng.integers(256)
        header = wrong[start : start + 512]
        total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
        wrong[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(wrong)


def read_all(path: Path) -> None:
    with suppress(UserError), path.open("rb") as file:
        list(read_samples(file, str(path)))
    with suppress(UserError), path.open("rb") as file:
        visit_members(file, str(path), lambda key, name, data: data.read())
    with suppress(UserError):
        index = read_index(Storage(), str(path))
        for number in range(len(index)):
            index.read(Storage(), number)


def read_many(path: Path, kind: str, seeds: range) -> None:
    for seed in seeds:
        path.write_bytes(damaged(KINDS[kind], np.random.default_rng(seed)))
        began = time.monotonic()
        read_all(path)
        assert time.monotonic() - began < SECONDS_PER_SHARD, seed


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_is_an_error_or_samples(tmp_path: Path, kind: str) -> None:
    read_many(tmp_path / "x.tar", kind, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_much_damage_is_an_error_or_samples(tmp_path: Path, kind: str) -> None:
    read_many(tmp_path / "x.tar", kind, range(20, 420))
