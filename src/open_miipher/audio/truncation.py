"""Find audio files that are shorter than their header says.

libsndfile reads a truncated WAV, AIFF or Ogg file without an error, as if its end were the true
end. These checks compare the lengths in the container with the size of the file.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_OPEN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""Values of a RIFF size field that mean "unknown"; ffmpeg and sox write them into a pipe."""

_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_MAX_OGG_PAGE = 27 + 255 + 255 * 255


def missing_bytes(file: BinaryIO) -> int:
    """Count the bytes that the container promises and the file does not have.

    Args:
        file: opened for reading in binary; its position changes.

    Returns:
        Missing bytes of the sample data (WAV, RF64, AIFF) or of the last page (Ogg). 0 for a
        complete file, for a file whose header does not know its length, and for other formats,
        whose decoders notice by themselves.
    """
    file_size = file.seek(0, 2)
    file.seek(0)
    magic = file.read(12)
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
        data_end = _riff_data_end(file, file_size)
    elif magic[:4] == b"FORM" and magic[8:] in (b"AIFF", b"AIFC"):
        data_end = _aiff_data_end(file, file_size)
    elif magic[:4] == b"OggS":
        data_end = _last_ogg_page_end(file, file_size)
    else:
        data_end = 0
    return max(0, data_end - file_size)


def _riff_data_end(file: BinaryIO, file_size: int) -> int:
    long_size = None
    for name, start, size in _chunks(file, file_size, "<4sI"):
        if name == b"ds64":
            long_size = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"data":
            if long_size is not None:
                return start + long_size
            return 0 if size in _OPEN_SIZES else start + size
    return 0


def _aiff_data_end(file: BinaryIO, file_size: int) -> int:
    for name, start, size in _chunks(file, file_size, ">4sI"):
        if name == b"SSND":
            return start + size
    return 0


def _chunks(file: BinaryIO, file_size: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, size) of each chunk, with the file positioned at its start."""
    position = 12
    while position + 8 <= file_size:
        file.seek(position)
        name, size = struct.unpack(layout, file.read(8))
        yield name, position + 8, size
        position += 8 + size + size % 2


def _last_ogg_page_end(file: BinaryIO, file_size: int) -> int:
    tail_start = max(0, file_size - _MAX_OGG_PAGE)
    file.seek(tail_start)
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return 0
    if len(tail) < page + _OGG_HEADER.size:
        return tail_start + page + _OGG_HEADER.size
    num_segments = _OGG_HEADER.unpack_from(tail, page)[-1]
    segments = tail[page + _OGG_HEADER.size :][:num_segments]
    return tail_start + page + _OGG_HEADER.size + num_segments + sum(segments)
