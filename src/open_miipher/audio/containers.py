"""What containers promise and what files hold, where a decoder would pass over a difference.

libsndfile reads a truncated WAV, AIFF or Ogg file without an error, as if its end were the true
end. It stops where the header says, whatever follows, and reads the first of several files that
were joined by `cat`. So the sizes in the header are compared with the size of the file.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple


@dataclass(frozen=True)
class Extent:
    """Where the audio of a file ends.

    Attributes:
        num_bytes: of encoded samples, as the header says; None if it does not.
        missing: bytes that the header promises and the file does not have.
        unread: bytes behind the samples that belong to nothing: audio that was never counted.
        joined: whether another file begins behind the samples.
    """

    num_bytes: int | None = None
    missing: int = 0
    unread: int = 0
    joined: bool = False


_NO_EXTENT = Extent()


def extent_of(file: BinaryIO) -> Extent:
    """Compare what a file's header says of the samples with the file; reads a few headers.

    Args:
        file: opened for reading in binary; its position changes.

    Returns:
        All that is known: nothing of a header that makes no sense, and of formats whose decoders
        notice a cut by themselves.
    """
    file_size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for is_meant, measure in _MEASURES:
        if is_meant(head):
            return measure(file, file_size, head) or _NO_EXTENT
    return _NO_EXTENT


_HEAD_BYTES = 1024

_OPEN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 2**64 - 1, -1)
"""Values of a size field that mean "unknown"; ffmpeg and sox write them into a pipe."""

_LEAST_UNREAD = 2048
"""Fewer bytes behind the samples are no audio worth telling of."""

_MOST_PADDING = 1 << 16
"""So many zero bytes at most are taken for what fills the last block of a disk or tape."""

_MOST_CHUNKS = 10_000
"""No file has more chunks or tags; zeros would look like millions of empty ones."""

_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"NIST", b"OggS")
"""How the files begin that may lie behind the samples where two were joined."""


class _Layout(NamedTuple):
    """How a container is made of chunks."""

    header: struct.Struct  # of a chunk: its name and its size
    first: int  # where the first chunk begins
    align: int  # chunks begin at multiples of this, counted from the start
    counts_header: bool = False  # whether a chunk's size counts its header
    before: int = 0  # bytes of the chunk of samples that come before the samples


_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_XING = re.compile(rb"\xff[\xe0-\xff].{2}.{9,34}(?:Xing|Info)(.{12})", re.DOTALL)
_MPEG_FRAME = re.compile(rb"\xff[\xe2-\xff]")
_HAS_FRAMES, _HAS_SIZE = 1, 2  # flags of the numbers that follow
_SAMPLE_CHUNKS = (b"data", b"SSND", b"BODY", b"data" + _W64_TAIL)


def _riff(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    order = ">" if head[:4] == b"RIFX" else "<"
    return _in_chunks(file, file_size, _Layout(struct.Struct(f"{order}4sI"), 12, 2))


def _w64(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    return _in_chunks(file, file_size, _Layout(struct.Struct("<16sQ"), 40, 8, counts_header=True))


def _iff(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    before = 8 if head[8:11] == b"AIF" else 0
    return _in_chunks(file, file_size, _Layout(struct.Struct(">4sI"), 12, 2, before=before))


def _caf(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    return _in_chunks(file, file_size, _Layout(struct.Struct(">4sq"), 8, 1, before=4))


def _au(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    if len(head) < 12:
        return None
    start, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    return _extent(file, file_size, start, size, None)


def _nist(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    keys = dict(re.findall(rb"(\w+) -i (\d{1,12})\s", head))
    found = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", head)
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    if found is None or not all(name in keys for name in names):
        return None
    frames, channels, width = (int(keys[name]) for name in names)
    return _extent(file, file_size, int(found[1]), frames * channels * width, None)


def _mp3(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    """Compare the size in the tag that encoders put into the first frame: no more is decoded."""
    start = _behind_tags(file, file_size, 0)
    file.seek(start)
    found = _XING.search(file.read(_HEAD_BYTES))  # zeros may fill the place of a tag
    if found is None:
        return None
    flags, *numbers = struct.unpack(">III", found[1])
    if not flags & _HAS_SIZE:
        return None
    size = numbers[1] if flags & _HAS_FRAMES else numbers[0]
    unread = _extent(file, file_size, start + found.start(), size, None).unread
    file.seek(file_size - unread)
    joined = unread > 0 and _MPEG_FRAME.search(file.read(_LEAST_UNREAD)) is not None
    return Extent(size, unread=unread if joined else 0, joined=joined)  # a cut its decoder notices


def _ogg(file: BinaryIO, file_size: int, head: bytes) -> Extent | None:
    tail_start = max(0, file_size - _MAX_OGG_PAGE)
    file.seek(tail_start)
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return None
    end = tail_start + page + _ogg_page_size(tail[page : page + 27 + 255])
    return Extent(missing=max(0, end - file_size))


_MEASURES = (
    (lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE", _riff),
    (lambda head: head[:4] == b"riff" and head[24:28] == b"wave", _w64),
    (lambda head: head[:4] == b"FORM", _iff),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:4] in (b".snd", b"dns."), _au),
    (lambda head: head[:8] == b"NIST_1A\n", _nist),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:1] == b"\xff" or head[:3] in (b"ID3", b"TAG", b"APE"), _mp3),
)


def _in_chunks(file: BinaryIO, file_size: int, layout: _Layout) -> Extent | None:
    long_size = None
    for name, start, size in _chunks(file, file_size, layout, layout.first):
        if name == b"ds64":
            sizes = file.read(16)
            if len(sizes) < 16:
                return Extent(missing=start + 16 - file_size)
            long_size = struct.unpack("<QQ", sizes)[1]
        elif name in _SAMPLE_CHUNKS:
            if long_size is not None and size == 0xFFFFFFFF:
                size = long_size
            known = size if size in _OPEN_SIZES else size - layout.before
            return _extent(file, file_size, start + layout.before, known, layout)
    return None


def _chunks(
    file: BinaryIO, file_size: int, layout: _Layout, position: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, size) of each chunk's content, with the file positioned there."""
    width = layout.header.size
    for _ in range(_MOST_CHUNKS):
        if position + width > file_size:
            return
        file.seek(position)
        name, size = layout.header.unpack(file.read(width))
        size -= width if layout.counts_header else 0
        yield name, position + width, size
        if size < 0:
            return
        position += width + size
        position += -position % layout.align


def _extent(
    file: BinaryIO, file_size: int, start: int, size: int, layout: _Layout | None
) -> Extent:
    """Compare the size of the samples with what follows; a size below 0 counts as none."""
    if size in _OPEN_SIZES:
        return _NO_EXTENT
    size = max(0, size)
    end = start + size
    if end >= file_size:
        return Extent(size, missing=end - file_size)
    place = end if layout is None else _behind_chunks(file, file_size, layout, end)
    audio = _behind_tags(file, file_size, place)
    file.seek(audio)
    follows = file.read(_MOST_PADDING + 1)
    unread = file_size - audio
    is_padding = len(follows) <= _MOST_PADDING and not any(follows)
    if size and (unread < _LEAST_UNREAD or is_padding):
        return Extent(size)
    joined = audio > place or follows.startswith(_MAGICS) or _XING.match(follows) is not None
    return Extent(size, unread=unread, joined=joined)


def _behind_chunks(file: BinaryIO, file_size: int, layout: _Layout, end: int) -> int:
    """Return where the chunks that follow the samples end, or what looks like them."""
    place = end
    for padding in sorted({0, -end % layout.align}):  # some programs do not pad
        for name, start, size in _chunks(file, file_size, layout, end + padding):
            if name.startswith(_MAGICS):
                return start - layout.header.size
            if not re.match(rb"[A-Za-z0-9_ ]{4}", name):
                break
            place = min(file_size, start + max(0, size))
        if place > end:
            break
    return place


def _behind_tags(file: BinaryIO, file_size: int, place: int) -> int:
    """Return where the tags end that players put before and behind any kind of file."""
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(_HEAD_BYTES)
        if head[:3] == b"ID3" and len(head) >= 10:
            a, b, c, d = head[6:10]
            place += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 16 else 0)
        elif head[:3] == b"TAG":
            place += 227 if head[3:4] == b"+" else 128
        elif head[:8] == b"APETAGEX" and len(head) >= 32:
            place += 32 + int(struct.unpack("<I", head[12:16])[0])
        else:
            break
    return min(place, file_size)


_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_MAX_OGG_PAGE = 27 + 255 + 255 * 255
_FLAC_TAIL = 1 << 20
_BEGINS = 2  # flag of the first page of an Ogg stream


def _ogg_page_size(head: bytes) -> int:
    """Return the size of a page, or of as much of its header as there is and a byte more."""
    if len(head) < _OGG_HEADER.size:
        return _OGG_HEADER.size
    num_segments = head[26]
    return _OGG_HEADER.size + num_segments + sum(head[27 : 27 + num_segments])


def problem_inside(file: BinaryIO) -> str | None:
    """Look into an Ogg or FLAC file, and say what a decoder would leave out, or None.

    Args:
        file: opened for reading in binary; its position changes. All of an Ogg file is read, and
            the last MiB of a FLAC file.
    """
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return _ogg_problem(file)
    return _flac_problem(file) if magic == b"fLaC" else None


def _flac_problem(file: BinaryIO) -> str | None:
    file.seek(max(4, file.seek(0, 2) - _FLAC_TAIL))
    return JOINED if re.search(rb"fLaC[\0\x80]\0\0\x22", file.read()) else None


def _ogg_problem(file: BinaryIO) -> str | None:
    file.seek(0)
    position, has_begun = 0, False
    while head := file.read(_OGG_HEADER.size):
        if head[:4] != b"OggS" or len(head) < _OGG_HEADER.size:
            extent = _extent(file, file.seek(0, 2), 0, position, None)
            return f"is damaged: no Ogg page begins at byte {position}" if extent.unread else None
        head += file.read(head[26])
        page = head + file.read(sum(head[27:]))
        if page[5] & _BEGINS and has_begun:
            return JOINED
        has_begun = has_begun or not page[5] & _BEGINS
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != page[22:26]:
            return f"is damaged: the checksum of the Ogg page at byte {position} is wrong"
        position += len(page)
    return None


JOINED = (
    "holds several files one behind the other, as from cat, and only the first would be read; "
    "split it, or decode all of it into one file"
)
"""What is said of such a file, behind its name."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> bytes:
    """Return the CRC of an Ogg page: zlib's polynomial, bits the other way round, begun with 0."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "little").translate(_REVERSED)[::-1]
