"""Recordings decoded once a machine, into a file that all processes there map.

Every worker draws the same noise and rooms again and again, and a span of FLAC or Vorbis takes as
long to decode as to filter. What is read is the same to the bit, so it does not matter to a sample
whether there was room for the file, which lies where `index.cache` says.
"""

import errno
import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from open_miipher.audio.formats import SAMPLE_BYTES
from open_miipher.audio.io import read_header
from open_miipher.base.errors import UserError, notice
from open_miipher.base.locks import lock_file
from open_miipher.base.paths import printable
from open_miipher.base.threads import in_threads
from open_miipher.data.files import File, Files
from open_miipher.distributed import is_first_here, unless_stopped
from open_miipher.index.cache import from_cache
from open_miipher.shards import FULL_SCALE

_MOST_SAMPLES = 2**29  # of all channels: 6 hours at 24 kHz, 1 GiB; 2 GiB if some have not 16 bits
_MOST_FILES = 20_000
_BLOCK_FRAMES = 2**20
_KINDS = (np.int16, np.float32)
"""Of samples: 16 bits where all files have no more."""
_REPEATABLE = tuple(SAMPLE_BYTES)
"""Subtypes of which a frame is the same wherever decoding began; not of MP3, Vorbis and Opus."""
_SUM_BYTES = 4  # a CRC-32 of the samples, behind them
_PART_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class DecodedFile(File):
    """A file of an index whose samples are at hand.

    Attributes:
        samples: (frames, channels) int16 or float32.
    """

    samples: np.ndarray

    def decode(self, start: int, count: int) -> np.ndarray:
        """Return frames: (channels, count) float32."""
        block = self.samples[start : start + count].T
        scale = FULL_SCALE if block.dtype == np.int16 else 1.0
        return block * np.float32(1 / scale)


class DecodedFiles:
    """The files of several directories, decoded.

    The file of their samples is locked, together with others, for as long as it is mapped: another
    run may not remove it from under this one, which some network file systems would let it do.

    Args:
        files: which.
        what: they are, for a warning.
        path: holds their samples, one file after the other, one frame after the other.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: the file has more bytes than their samples, or fewer.
    """

    def __init__(self, files: Files, what: str, path: Path) -> None:
        self._files, self._what, self._path = files, what, path
        self._ends = np.cumsum(files.sizes)
        count = int(self._ends[-1])
        kinds = {count * np.dtype(kind).itemsize + _SUM_BYTES: kind for kind in _KINDS}
        with open(path, "rb") as file:
            if not lock_file(file, is_shared=True):  # the mapping keeps it
                raise FileNotFoundError(f"{path} is being removed")
            size = os.stat(file.fileno()).st_size
            if size not in kinds:
                raise ValueError(f"{path} has {size} bytes")
            self._samples = np.asarray(np.memmap(file, kinds[size], "r", shape=(count,)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped_again, (self._files, self._what, self._path)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> DecodedFile:
        file, end = self._files[number], int(self._ends[number])
        start = end - file.info.num_frames * file.info.num_channels
        samples = self._samples[start:end].reshape(-1, file.info.num_channels)
        return DecodedFile(file.name, file.info, file.root, file.entry, samples)


def decoded(files: Files, what: str) -> Files | DecodedFiles:
    """Decode files that are not too many; otherwise, or without room on the disk, return them.

    Args:
        files: which.
        what: they are, for a warning.
    """
    if len(files) > _MOST_FILES or int(files.sizes.sum()) > _MOST_SAMPLES:
        return files
    try:
        found = unless_stopped(
            lambda: from_cache(
                f"{_identity(files)}.samples",
                lambda out: _write(files, out),
                lambda path: DecodedFiles(files, what, path),
                _check,
            )
        )
    except (OSError, UserError) as error:
        if is_first_here():
            notice(
                f"{what} is decoded anew for each sample, which takes longer, since it cannot be "
                f"decoded once: {error}",
            )
        return files
    return files if found is None else found


def _mapped_again(files: Files, what: str, path: Path) -> Files | DecodedFiles:
    """Map samples in another process of a run, which may start long after them."""
    try:
        return DecodedFiles(files, what, path)
    except FileNotFoundError:  # removed since then
        return decoded(files, what)


def _check(path: Path) -> None:
    """Compare the sum behind the samples with theirs.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: it is another one.
    """
    found = 0
    with open(path, "rb") as file:
        size = os.stat(file.fileno()).st_size - _SUM_BYTES
        for start in range(0, size, _PART_BYTES):
            found = crc32(file.read(min(_PART_BYTES, size - start)), found)
        if found.to_bytes(_SUM_BYTES, "little") != file.read():
            raise ValueError(f"{path} has changed since it was written")


def _identity(files: Files) -> str:
    """Return a hash over the files, that changes with any of them.

    Raises:
        OSError: one is not there.
    """
    digest = sha256(files.fingerprint.encode())
    places = (files[number].path for number in range(len(files)))
    for path, status in in_threads(lambda path: (path, path.stat()), places):
        times = status.st_mtime_ns, status.st_ctime_ns
        digest.update(os.fsencode(f"{path.absolute()}\0{status.st_size}\0{times}\n"))
    return digest.hexdigest()


def _write(files: Files, out: BinaryIO) -> None:
    all_files = [files[number] for number in range(len(files))]
    subtypes = list(in_threads(lambda file: read_header(file.path).subtype, all_files))
    for file, subtype in zip(all_files, subtypes, strict=True):
        if subtype not in _REPEATABLE:
            raise UserError(
                f"{printable(file.path)} is {subtype}, of which a decoder makes other samples "
                "where it begins elsewhere; convert it to FLAC"
            )
    has_16_bits, written = set(subtypes) == {"PCM_16"}, 0
    num_bytes = int(files.sizes.sum()) * np.dtype(_KINDS[0 if has_16_bits else 1]).itemsize
    if shutil.disk_usage(out.name).free < num_bytes:  # rather than fill it for others
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for file in all_files:
        for start in range(0, file.info.num_frames, _BLOCK_FRAMES):
            block = file.decode(start, min(_BLOCK_FRAMES, file.info.num_frames - start)).T
            samples = (block * np.float32(FULL_SCALE)).astype(np.int16) if has_16_bits else block
            data = np.ascontiguousarray(samples).data
            out.write(data)
            written = crc32(data, written)
    out.write(written.to_bytes(_SUM_BYTES, "little"))
