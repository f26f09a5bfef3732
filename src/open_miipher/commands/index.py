"""Make metadata.csv, the list of the audio files under a directory.

  python dataset/script/make_metadata_csv.py --root-dir DIR [--exts wav,flac] [--num-workers 8]

Every file is opened and its end decoded; with --check, all of it. Files that cannot be read are
named with the reason and left out. Extra columns of an existing metadata.csv (speaker, text, …) are
kept for the files that are still there. A metadata.csv that is no index, such as a data set's own,
is left alone without --overwrite or --merge-columns. Exit status: 0 done, 1 nothing readable
(nothing is written), 2 wrong use.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from open_miipher.audio.io import AUDIO_EXTENSIONS
from open_miipher.base.amounts import counted, duration
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.commands import Parser
from open_miipher.index import (
    METADATA_NAME,
    is_ljspeech,
    keep_old,
    match_texts,
    mends,
    read_extra_columns,
    read_foreign_columns,
    scan,
    write_index,
)

_SECONDS_BETWEEN_LINES = 10


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--root-dir", type=Path, required=True, help="directory with audio files")
    parser.add_argument(
        "--exts",
        default=",".join(AUDIO_EXTENSIONS),
        help="extensions to look for, separated by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that read (default: %(default)s, this machine's cores)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="decode every file whole, so that damage and NaN in its middle show; it takes as long "
        "as reading all of it",
    )
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument(
        "--overwrite",
        action="store_true",
        help="take nothing from the metadata.csv that is there, which is kept as metadata.csv.old",
    )
    anew.add_argument(
        "--merge-columns",
        action="store_true",
        help="take the columns of a metadata.csv of another form (file_name, …; id|text; with "
        "semicolons) for the files that it names; it is kept as metadata.csv.old",
    )
    anew.add_argument(
        "--ljspeech-texts",
        action="store_true",
        help="take the texts of LJSpeech's metadata.csv (id|text|normalised text), in --root-dir "
        "or the folder above, into a column text; it stays there, and the index goes into wavs/",
    )
    return parser.parse_args(argv)


def _progress() -> Callable[[int, int], None]:
    """A bar on a terminal; a line now and then in a log file, which a bar would garble."""
    bar = tqdm(unit="file", disable=not sys.stderr.isatty())
    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def show(done: int, total: int) -> None:
        nonlocal next_line
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()
        elif bar.disable and time.monotonic() >= next_line:
            print(f"{done} of {total} files", flush=True)
            next_line += _SECONDS_BETWEEN_LINES

    return show


def _extra_columns(root: Path) -> dict[str, dict[str, str]]:
    try:
        return read_extra_columns(root)
    except UserError as error:
        if "--overwrite" in str(error):
            raise
        raise UserError(f"{error}; {mends(root, merge=False)}") from error


def _ljspeech(root: Path) -> tuple[Path, Path]:
    """Return where the index of LJSpeech's audio goes, and the table with its texts.

    Raises:
        UserError: there is no such table.
    """
    audio = root / "wavs" if (root / "wavs").is_dir() else root
    places = (audio / METADATA_NAME, audio.resolve().parent / METADATA_NAME)
    table = next((path for path in places if is_ljspeech(path)), None)
    if table is None:
        raise UserError(
            f"neither {' nor '.join(map(printable, places))} is LJSpeech's table (id|text|"
            "normalised text, without a header); --merge-columns reads other tables"
        )
    return audio, table


def main(argv: Sequence[str] | None = None) -> int:
    """Scan, tell what is unreadable, write."""
    arguments = parse_arguments(argv)
    exts = tuple(ext.strip().lstrip(".").lower() for ext in arguments.exts.split(","))
    if not all(exts):
        raise UserError(f"--exts {arguments.exts!r} has an empty extension")
    if arguments.num_workers < 1:
        raise UserError(f"--num-workers must be at least 1, not {arguments.num_workers}")
    root, table = arguments.root_dir, None
    if arguments.ljspeech_texts:
        root, table = _ljspeech(root)
    anew = arguments.overwrite or arguments.merge_columns or table == root / METADATA_NAME
    extra = {} if anew else _extra_columns(root)
    found = scan(root, exts, arguments.num_workers, _progress(), whole=arguments.check)
    for _, reason in found.unreadable:
        print(f"unreadable: {reason}", file=sys.stderr)
    if not found.entries:
        print(
            f"error: {printable(root)} holds no readable audio file ({len(found.unreadable)} "
            f"unreadable; looked for {', '.join(exts)})",
            file=sys.stderr,
        )
        return 1
    if arguments.merge_columns:
        extra = read_foreign_columns(root, [entry.file_path for entry in found.entries])
        print(f"{len(extra)} of {len(found.entries)} files have a row in the old metadata.csv")
    if table is not None:
        texts = match_texts(table, [entry.file_path for entry in found.entries])
        print(f"{len(texts)} of {len(found.entries)} files have a text in {printable(table)}")
        extra |= {path: {**extra.get(path, {}), **own} for path, own in texts.items()}
    kept = keep_old(root) if anew else None
    if kept is not None:
        print(f"the old metadata.csv is kept as {printable(kept)}")
    entries = [replace(entry, extra=extra.get(entry.file_path, {})) for entry in found.entries]
    path = write_index(root, entries)
    seconds = sum(entry.num_frames / entry.sample_rate for entry in entries)
    left_out = f", {len(found.unreadable)} unreadable left out" if found.unreadable else ""
    print(f"{printable(path)}: {counted(len(entries), 'files')}, {duration(seconds)}{left_out}")
    return 0
