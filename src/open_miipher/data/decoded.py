"""Recordings decoded once a machine, into a file that all processes there map.

Every worker draws the same noise and rooms again and again, and a span of FLAC or Vorbis takes as
long to decode as to filter. What is read is the same to the bit, so it does not matter to a sample
whether there was room for the file, which lies where `index.cache` says.
"""

import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from open_miipher.audio.formats import SAMPLE_BYTES
from open_miipher.audio.io import read_header
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.threads import in_threads
from open_miipher.data.files import File, Files
from open_miipher.distributed import is_first_here
from open_miipher.index.cache import from_cache
from open_miipher.shards import FULL_SCALE

_MOST_SAMPLES = 2**29  # of all channels: 6 hours at 24 kHz, 1 GiB; 2 GiB if some have not 16 bits
_MOST_FILES = 20_000
_BLOCK_FRAMES = 2**20
_KINDS = (np.int16, np.float32)
"""Of samples: 16 bits where all files have no more."""
_REPEATABLE = tuple(SAMPLE_BYTES)
"""Subtypes of which a frame is the same wherever decoding began; not of MP3, Vorbis and Opus."""


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

    Args:
        files: which.
        path: holds their samples, one file after the other, one frame after the other.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: there are too many or too few.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self._files, self._path = files, path
        self._ends = np.cumsum(files.sizes)
        size = path.stat().st_size
        kinds = {int(self._ends[-1]) * np.dtype(kind).itemsize: kind for kind in _KINDS}
        if size not in kinds:
            raise ValueError(f"{path} has {size} bytes")
        self._samples = np.asarray(np.memmap(path, kinds[size], "r"))

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedFiles, (self._files, self._path)

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
        name = f"{_identity(files)}.samples"
        return from_cache(
            name, lambda out: _write(files, out), lambda path: DecodedFiles(files, path)
        )
    except (OSError, UserError) as error:
        if is_first_here():
            warnings.warn(
                f"{what} is decoded anew for each sample, which takes longer, since it cannot be "
                f"decoded once: {error}",
                stacklevel=3,
            )
        return files


def _identity(files: Files) -> str:
    """Return a hash over the files, that changes with any of them.

    Raises:
        OSError: one is not there.
    """
    digest = sha256(files.fingerprint.encode())
    places = (files[number].path for number in range(len(files)))
    for path, status in in_threads(lambda path: (path, path.stat()), places):
        times = status.st_mtime_ns, status.st_ctime_ns
        digest.update(f"{path.absolute()}\0{status.st_size}\0{times}\n".encode())
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
    has_16_bits = set(subtypes) == {"PCM_16"}
    for file in all_files:
        for start in range(0, file.info.num_frames, _BLOCK_FRAMES):
            block = file.decode(start, min(_BLOCK_FRAMES, file.info.num_frames - start)).T
            samples = (block * np.float32(FULL_SCALE)).astype(np.int16) if has_16_bits else block
            out.write(np.ascontiguousarray(samples).data)
