"""Which files are audio by their names: what is read, and what has to be converted first."""

import shlex
from collections import Counter
from pathlib import Path

from open_miipher.base.paths import printable

_BY_LIBSNDFILE = (
    *("wav", "wave", "bwf", "rf64", "flac", "mp3", "ogg", "oga", "opus"),
    *("aiff", "aif", "aifc", "caf", "w64", "au", "snd", "sph"),
)
FFMPEG_EXTENSIONS = (
    *("3ga", "3gp", "3gpp", "3g2", "aac", "ac3", "ac4", "adts", "aea", "alac", "amr", "amrnb"),
    *("amrwb", "ape", "asf", "avi", "awb", "dff", "dsf", "dts", "dtshd", "eac3", "ec3", "f4a"),
    *("f4v", "flv", "m2ts", "m4a", "m4b", "m4r", "m4v", "mka", "mkv", "mlp", "mmf", "mov", "mp1"),
    *("mp2", "mp4", "mpa", "mpc", "mpeg", "mpg", "mpga", "mts", "nist", "ofr", "ogm", "ogv", "ogx"),
    *("oma", "qcp", "qt", "ra", "rm", "rmvb", "shn", "spx", "tak", "thd", "ts", "tta", "voc"),
    *("vob", "weba", "webm", "wma", "wmv", "wv", "wtv", "xwma"),
)
"""What PyAV's ffmpeg reads."""

UNREAD_EXTENSIONS = (
    *("aa", "aax", "act", "dss", "dvf", "g722", "g726", "g729", "gsm", "m4p", "msv", "ram"),
    *("raw", "sln", "vox"),
)
"""Of audio that is not read, bare or encrypted; ffmpeg converts some of it."""

AUDIO_EXTENSIONS = (*_BY_LIBSNDFILE, *FFMPEG_EXTENSIONS)
"""File extensions taken for audio, lower case, without the dot."""

NO_EXTENSION = "without an extension"

_SHOWN = 12  # kinds
_LONGEST = 10  # letters of an extension; what is longer is a part of a name


def kind_of(name: str) -> str:
    """Return a file's extension in lower case, or NO_EXTENSION."""
    stem, dot, extension = name.rpartition(".")
    is_one = dot and stem and extension.isalnum() and len(extension) <= _LONGEST
    return extension.lower() if is_one else NO_EXTENSION


def passed_over(kinds: Counter[str], root: str | Path) -> str:
    """Say what a folder holds besides what was looked for, and how to convert what is audio.

    Args:
        kinds: how many files there are of each kind (see `kind_of`).
        root: the folder.
    """
    unread = sorted(kinds.keys() & UNREAD_EXTENSIONS)
    order = sorted(kinds, key=lambda kind: (kind not in UNREAD_EXTENSIONS, kind))
    named = [f"{kinds[kind]:,} {kind}" for kind in order[:_SHOWN]]
    if len(order) > _SHOWN:
        named.append(f"{sum(kinds[kind] for kind in order[_SHOWN:]):,} of other kinds still")
    total = kinds.total()
    files = "1 file of another kind is" if total == 1 else f"{total:,} files of other kinds are"
    told = f"{files} passed over in {printable(root)}: {', '.join(named)}"
    if not unread:
        return told
    patterns = " -o ".join(f"-iname '*.{kind}'" for kind in unread)
    find = f"find {shlex.quote(printable(root))} -type f \\( {patterns} \\)"
    convert = "ffmpeg -nostdin -n -i {} -vn {}.flac"
    return f"{told}; to have the audio among them, convert it: {find} -exec {convert} \\;"
