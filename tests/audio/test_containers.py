"""What a header says and what a file holds: whatever would be left out is told."""

import gzip
import re
import struct
from pathlib import Path

import pytest
from audio_files import FORMATS, encoded

from open_miipher.audio.io import AudioError, AudioReader, Encoded, probe, read, read_header

W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
SIZES = {
    "wav": ("<I", b"data", 0),
    "float.wav": ("<I", b"data", 0),
    "alaw.wav": ("<I", b"data", 0),
    "rf64.wav": ("<Q", b"ds64", 12),
    "w64": ("<Q", b"data" + W64_TAIL, 0),
    "aiff": (">I", b"SSND", 0),
    "caf": (">q", b"data", 0),
    "au": (">I", b".snd", 4),
}
"""How the size of the samples stands in a header, what comes before it, and how far before."""

TRAILER = bytes(range(256)) * 16
CHUNKS = {
    **{name: b"LIST" + struct.pack("<I", 4096) for name in SIZES if name.endswith("wav")},
    "aiff": b"ANNO" + struct.pack(">I", 4096),
    "caf": b"info" + struct.pack(">q", 4096),
    "w64": b"levl" + W64_TAIL + struct.pack("<Q", 24 + 4096),
}
"""Headers of chunks that may follow the samples, of 4096 bytes."""


def size_in(name: str, data: bytes) -> tuple[struct.Struct, int]:
    """Return how and where the size of the samples stands."""
    layout, before, skipped = SIZES[name]
    return struct.Struct(layout), data.index(before) + len(before) + skipped


def with_size(name: str, size: int) -> bytes:
    """Change a header's size of the samples."""
    data = bytearray(encoded(name))
    layout, place = size_in(name, data)
    layout.pack_into(data, place, size)
    return bytes(data)


@pytest.mark.parametrize("name", SIZES)
def test_audio_behind_what_the_header_says_is_told_with_both_lengths(name: str) -> None:
    layout, place = size_in(name, encoded(name))
    (size,) = layout.unpack_from(encoded(name), place)
    said = with_size(name, size - 3 * (size // 4))
    for look in (probe, read_header, read, AudioReader):
        with pytest.raises(AudioError, match=r"x holds 0\.[23] s of audio by its header") as error:
            look(Encoded("x", said))
    assert re.search(r"and 1\.0 s by its size", str(error.value))


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_was_never_written_is_told(name: str) -> None:
    nothing = {"w64": 24, "aiff": 8, "caf": 4}.get(name, 0)
    with pytest.raises(AudioError, match="x has no length in its header"):
        probe(Encoded("x", with_size(name, nothing)))


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("num_bytes", [2, 960, 48000])
def test_a_wav_whose_sizes_are_all_empty_has_no_length(riff: int, num_bytes: int) -> None:
    data = bytearray(with_size("wav", 0)[: 44 + num_bytes])
    data[4:8] = struct.pack("<I", riff)
    with pytest.raises(AudioError, match=rf"no length in its header: .* {num_bytes} bytes"):
        probe(Encoded("x", bytes(data)))


@pytest.mark.parametrize("sizes", [1, 2])
def test_a_size_that_wrapped_at_4_gib_is_told(tmp_path: Path, sizes: int) -> None:
    path, size = tmp_path / "wrapped.wav", sizes * 2**32 + 192_000
    with path.open("wb") as file:  # takes no room on the disk
        file.write(b"RIFF" + struct.pack("<I", (size + 36) % 2**32) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, 1, 1, 48000, 96000, 2, 16))
        file.write(b"data" + struct.pack("<I", size % 2**32))
        file.truncate(44 + size)
    whole = f"{size / 96000 / 3600:.2f} h"
    with pytest.raises(AudioError, match=rf"holds 2\.0 s of audio by its header and {whole} by"):
        probe(path)


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125), bytes(40_000)])
def test_chunks_tags_and_padding_behind_the_samples_are_no_audio(name: str, behind: bytes) -> None:
    file = Encoded("x", encoded(name) + CHUNKS[name] + TRAILER + behind)
    assert probe(file) == probe(Encoded("x", encoded(name)))
    assert read(file)[0].tobytes() == read(Encoded("x", encoded(name)))[0].tobytes()


@pytest.mark.parametrize("name", sorted({*SIZES, "nist.wav"}))
@pytest.mark.parametrize("share", [0.97, 0.5])
def test_a_cut_is_told_in_every_container(name: str, share: float) -> None:
    data = encoded(name)
    with pytest.raises(AudioError, match=r"x is truncated: its last \d+ bytes are missing"):
        probe(Encoded("x", data[: int(share * len(data))]))


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_bytes_of_a_file_are_an_error(name: str) -> None:
    data = encoded(name)
    for length in range(160):
        with pytest.raises(AudioError, match=r"^x "):
            read(Encoded("x", data[:length]))


def test_an_rf64_that_was_cut_in_its_header_is_truncated() -> None:
    for length in range(20, 36):
        with pytest.raises(AudioError, match="x is truncated"):
            probe(Encoded("x", encoded("rf64.wav")[:length]))


def test_an_mp3_with_a_bad_spot_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "bad.mp3").write_bytes(damaged_mp3())
    for file in (tmp_path / "bad.mp3", Encoded("bad.mp3", damaged_mp3())):
        with pytest.raises(AudioError, match=r"bad\.mp3 is (damaged|truncated)"):
            probe(file)
        with pytest.raises(AudioError, match=r"bad\.mp3 is (damaged|truncated)"):
            read(file)


def damaged_mp3() -> bytes:
    data = bytearray(encoded("mp3", 120_000))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    return bytes(data)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_sample_rate_that_nothing_has_is_told(rate: int) -> None:
    data = bytearray(encoded("wav"))
    data[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioError, match=f"x has a sample rate of {rate} Hz"):
        probe(Encoded("x", bytes(data)))


JOINED = "x holds several files one behind the other"
TAGS = {
    "": b"",
    "id3v2": b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128),
    "id3v1": b"TAG" + b"title".ljust(125),
    "ape": b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 1 << 31) + bytes(32),
}


@pytest.mark.parametrize("name", sorted({*SIZES, "nist.wav", "flac", "ogg", "opus", "mp3"}))
@pytest.mark.parametrize("second", [1.0, 0.4])
def test_files_joined_by_cat_are_told(tmp_path: Path, name: str, second: float) -> None:
    data = encoded(name) + encoded(name, int(second * 24000))
    (tmp_path / "x").write_bytes(data)
    for file in (Encoded("x", data), tmp_path / "x"):
        with pytest.raises(AudioError, match=JOINED):
            probe(file)


@pytest.mark.parametrize(("first", "second"), [("id3v1", "id3v2"), ("ape", ""), ("", "id3v2")])
def test_mp3_files_joined_with_their_tags_are_told(first: str, second: str) -> None:
    data = TAGS["id3v2"] + encoded("mp3") + TAGS[first] + TAGS[second] + encoded("mp3")
    with pytest.raises(AudioError, match=JOINED):
        probe(Encoded("x", data))


@pytest.mark.parametrize("name", ["wav", "aiff", "au", "ogg", "opus"])
@pytest.mark.parametrize("junk", [b"\n", b"x" * 2000, bytes(30_000)])
def test_a_little_junk_and_padding_behind_a_file_is_nothing(name: str, junk: bytes) -> None:
    assert probe(Encoded("x", encoded(name) + junk)).num_frames == 24000


@pytest.mark.parametrize("junk", [b"x" * 5000, bytes(300_000)])
def test_what_is_no_mpeg_behind_an_mp3_is_no_other_file(junk: bytes) -> None:
    assert probe(Encoded("x", encoded("mp3") + junk)).num_frames == 24000


def test_mp3_files_that_say_no_length_are_read_whole_when_joined() -> None:
    data = encoded("mp3")
    frame = data[: data.index(data[:2], 4)]  # the first one, of which only the length is said
    assert b"Xing" in frame
    bare = data[len(frame) :]
    alone, joined = (probe(Encoded("x", bare * count)).num_frames for count in (1, 2))
    assert joined >= 2 * alone


@pytest.mark.parametrize("name", ["mp3", "flac", "ogg", "opus"])
@pytest.mark.parametrize("tags", [["id3v1"], ["ape"], ["ape", "id3v1"]])
def test_tags_around_a_file_are_no_other_file(name: str, tags: list[str]) -> None:
    before = TAGS["id3v2"] if name == "mp3" else b""
    data = before + encoded(name) + b"".join(TAGS[tag] for tag in tags)
    assert probe(Encoded("x", data)).num_frames == 24000


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_a_wrong_bit_in_any_page_of_an_ogg_file_is_told(name: str) -> None:
    data = encoded(name, 48_000)
    pages = [match.start() for match in re.finditer(b"OggS", data)]
    assert len(pages) >= 3
    for place in [*(page + 40 for page in pages), len(data) - 1]:
        wrong = bytearray(data)
        wrong[place] ^= 4
        with pytest.raises(AudioError, match=r"^x "):
            probe(Encoded("x", bytes(wrong)))
    with pytest.raises(AudioError, match=f"checksum of the Ogg page at byte {pages[-1]} is wrong"):
        probe(Encoded("x", bytes(wrong)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html><head>", "it is a web page, as from a download that failed"),
        (b"\xef\xbb\xbf\r\n<HTML lang=en>", "it is a web page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "it is XML"),
        (b'{"error": "not found"}', "it is JSON"),
        (gzip.compress(b"x", mtime=0), "it is gzipped"),
        (b"export class Component {}\n", "it is text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (bytes(5000), "it is zeros where its content should begin"),
    ],
)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.mp3", "x.ogg", "x.mp4", "x.ts"])
def test_what_is_no_audio_is_called_by_what_it_is(name: str, content: bytes, says: str) -> None:
    with pytest.raises(AudioError, match=f"{name} cannot be opened as audio: {says}"):
        probe(Encoded(name, content))


def test_what_is_encrypted_by_its_name_is_to_be_converted() -> None:
    content = b"\0\0\0\x20ftypM4A \0\0\0\0"
    with pytest.raises(AudioError, match=r"x\.m4p .*: it is MP4 or M4A; convert it"):
        probe(Encoded("x.m4p", content))
    with pytest.raises(AudioError, match=r"x\.m4a .*: Invalid data found"):
        probe(Encoded("x.m4a", content))
