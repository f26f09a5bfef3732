"""A metadata.csv that is no index: whose it looks like, and its columns."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

_PATH_NAMES = ("file_path", "file_name", "filename", "file", "path", "audio", "audio_file", "wav")
_ID_NAMES = ("id", "ID", "utt_id", "utterance_id", "name")
_LJSPEECH = ("id", "text", "normalised_text")  # its file has no header
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def index_command(root: str | Path) -> str:
    """Return the command that makes the index of a directory."""
    return f"python dataset/script/make_metadata_csv.py --root-dir {shlex.quote(printable(root))}"


def no_index(path: Path) -> UserError:
    """Return the error for a file called metadata.csv that has no column `file_path`."""
    try:
        delimiter, header, rows = _table(path)
    except UserError as error:
        return error
    if not header:
        what = "is empty;"
    elif "file_path" in header:
        what = f"has {_DELIMITERS[delimiter]} between its columns; save it with commas, or"
    elif header == list(_LJSPEECH[: len(header)]):
        what = (
            "is no index, it looks like LJSpeech's (id|text): with --ljspeech-texts the index goes "
            "into wavs/, with its texts, and that is the directory to give; or"
        )
    elif "file_name" in header:
        what = "is no index, it looks like that of an audio folder for the hub (file_name, …);"
    else:
        what = f"is no index, its columns are {printable(', '.join(header))[:200]};"
    return UserError(f"{printable(path)} {what} {mends(path.parent, merge=bool(rows))}")


def mends(root: Path, merge: bool = True) -> str:
    """Say which options make an index in spite of a file that is none."""
    more = ", or with --merge-columns, which takes its columns over" if merge else ""
    return f"make the index with {index_command(root)} --overwrite{more}; the old file is kept"


def match_rows(path: Path, file_paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read another program's table, and find the rows of audio files.

    A row belongs to the file whose path, path without its extension, or name without it, it has in
    its column of paths or ids: one of the usual names, else the first.

    Args:
        path: the table: CSV with any of the usual delimiters; without a header if it is LJSpeech's.
        file_paths: of the audio files, relative to the table's folder.

    Returns:
        The other columns by file path, for the files that it has rows of.

    Raises:
        UserError: the file cannot be read, or is no table.
    """
    _, header, rows = _table(path)
    known = [name for name in (*_PATH_NAMES, *_ID_NAMES) if name in header]
    place = header.index(known[0]) if known else 0
    by_key = {row[place].removeprefix("./"): row for row in rows if len(row) == len(header)}
    own = [(k, name) for k, name in enumerate(header) if name and k != place]
    paths = [PurePosixPath(file_path) for file_path in file_paths]
    num_stems = Counter(path.stem for path in paths)
    found = {}
    for file_path, audio in zip(file_paths, paths, strict=True):
        keys = [file_path, str(audio.with_suffix(""))]
        if num_stems[audio.stem] == 1:
            keys += [audio.name, audio.stem]
        row = next((by_key[key] for key in keys if key in by_key), None)
        if row is not None:
            found[file_path] = {name: row[k] for k, name in own}
    return found


def is_ljspeech(path: Path) -> bool:
    """Whether a file looks like LJSpeech's table: `id|text|normalised text`, without a header."""
    try:
        return _table(path)[1][:2] == list(_LJSPEECH[:2])
    except UserError:
        return False


def match_texts(path: Path, file_paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read LJSpeech's table, `id|text as written|text as spoken`, for audio files.

    Args:
        path: the table, which `is_ljspeech`.
        file_paths: of the audio files.

    Returns:
        By file path, for the files that it has rows of: `text`, as spoken where that is there, and
        `raw_text`, as written.

    Raises:
        UserError: it has no row of any of the files.
    """
    rows = match_rows(path, file_paths)
    if not rows:
        raise UserError(
            f"{printable(path)} has no row of any of the {len(file_paths)} audio files: its ids "
            "must be their names, without .wav"
        )
    return {
        file_path: {
            "text": (row.get("normalised_text") or row["text"]).strip(),
            "raw_text": row["text"].strip(),
        }
        for file_path, row in rows.items()
    }


def _table(path: Path) -> tuple[str, list[str], list[list[str]]]:
    """Return the delimiter, the header (LJSpeech's files have none and get one) and the rows."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=first.count)
        lines = io.StringIO(text, newline="")
        if delimiter == "|":  # LJSpeech's texts hold single quotation marks
            rows = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        else:
            rows = list(csv.reader(lines, delimiter=delimiter))
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{printable(path)} is not CSV in UTF-8: {error}") from error
    rows = [row for row in rows if row]
    if not rows:
        return delimiter, [], []
    names = {*_PATH_NAMES, *_ID_NAMES}
    if delimiter == "|" and len(rows[0]) <= len(_LJSPEECH) and not names & {*rows[0]}:
        return delimiter, list(_LJSPEECH[: len(rows[0])]), rows
    return delimiter, rows[0], rows[1:]
