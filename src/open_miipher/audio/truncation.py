"""Does a file hold all that its container announces?

libsndfile shortens a cut WAV, AIFF or Ogg file without a word, so that the missing end would look
like the true end. These checks compare the container's own lengths with the size of the file.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_OPEN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""What programs that write to a pipe (ffmpeg, sox) put into a RIFF size field."""

_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_MAX_OGG_PAGE = 27 + 255 + 255 * 255


def missing_bytes(file: BinaryIO) -> int:
    """Count the bytes that the container announces and the file does not hold.

    Args:
        file: opened for reading in binary; its position is moved.

    Returns:
        Missing bytes of the sample data of WAV, RF64 and AIFF files and of the last page of Ogg
        files; 0 for a whole file, for a length left open by its writer, and for other formats
        (their decoders notice).
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
