"""What a file holds that is not what its name says: for messages that help."""

import re

HEAD_BYTES = 1024
"""`describe` looks at a file's first bytes, of which so many are enough."""

_COMPRESSED = {
    b"\x1f\x8b": "gzipped",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
}
_MEDIA = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"0&\xb2u\x8ef\xcf\x11": "WMA",
    b"#!AMR": "AMR",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"DSD ": "DSD",
    b"FLV": "Flash video",
}
_MAGICS = {
    **_COMPRESSED,
    **_MEDIA,
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS, whose content was not fetched",
}
_MP4, _AAC, _AVI, _STREAM = "MP4 or M4A", "AAC", "AVI", "an MPEG transport stream"
MEDIA = frozenset({*_MEDIA.values(), _MP4, _AAC, _AVI, _STREAM})
"""Of what `describe` says: audio and video that ffmpeg reads."""


def describe(head: bytes) -> str | None:
    """Say what a file is that begins so, to follow "it is"; None if that is not known.

    Args:
        head: its first HEAD_BYTES, or all of it.
    """
    if not head:
        return "empty"
    for magic, content in _MAGICS.items():
        if head.startswith(magic):
            return content
    if head[4:8] == b"ftyp":
        return _MP4
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _AVI
    if len(head) > 376 and {head[0], head[188], head[376]} == {0x47}:
        return _STREAM
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:1] == b"\xff" and head[1:2] in (b"\xf1", b"\xf9"):
        return _AAC
    if not any(head):
        return "zeros where its content should begin"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if re.match(rb"<(!doctype html|!--|html|head|body|script)", start):
        return "a web page, as from a download that failed"
    if re.match(rb"<(\?xml|\w+)", start):
        return "XML, as the error of a download"
    if re.match(rb"[{\[]\s*[\"{\[]", start):
        return "JSON"
    if re.fullmatch(rb"[^\x00-\x08\x0e-\x1f\x7f]{16,}", head) and not head.startswith(b"NIST"):
        return "text"
    return None


def compression(head: bytes) -> str | None:
    """Say how a file that begins so is compressed, to follow "it is", if Python can unpack it."""
    return next((how for magic, how in _COMPRESSED.items() if head.startswith(magic)), None)
