"""Make SC09, the spoken digits zero to nine, from Google's Speech Commands.

    python dataset/script/prepare_sc09.py --speech-commands DIR --output-dir data/sc09

DIR is the unpacked archive: a folder for each word, validation_list.txt and testing_list.txt. The
output gets train/, valid/ and test/ by these lists, each with the ten folders zero/ … nine/ and a
metadata.csv, in which the column `speaker` is the first part of a file's name. Files are linked, or
copied where the output lies on another disk; what is there already is kept, so that the same
command goes on after an interruption. Exit status: 0 done, 2 wrong use.
"""

import argparse
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from open_miipher.base.amounts import counted, duration
from open_miipher.base.atomic import replacing
from open_miipher.base.errors import UserError, exit_on_user_error, report
from open_miipher.base.paths import printable
from open_miipher.commands import Parser
from open_miipher.index import find_audio, scan, write_index

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
PARTS = ("train", *LISTS)


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--speech-commands", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output-dir", type=Path, required=True, help="made if missing")
    parser.add_argument(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that read (default: %(default)s, this machine's cores)",
    )
    return parser.parse_args()


@exit_on_user_error
def main() -> int:
    """Split by the lists, link, index."""
    arguments = _arguments()
    if arguments.num_workers < 1:
        raise UserError(f"--num-workers must be at least 1, not {arguments.num_workers}")
    for part, paths in split(arguments.speech_commands).items():
        root = arguments.output_dir / part
        for path in paths:
            place(arguments.speech_commands / path, root / path)
        write_part(root, paths, arguments.num_workers)
    return 0


def split(root: Path) -> dict[str, list[str]]:
    """Return the paths of each part, relative to Speech Commands.

    Raises:
        UserError: a list or a folder is missing or empty, a listed file is missing, or a digit has
            no file in a part.
    """
    missing = [name for name in LISTS.values() if not (root / name).is_file()]
    empty = [word for word in DIGITS if not (root / word).is_dir() or not _files(root, word)]
    mend = "give the folder into which the archive of Speech Commands was unpacked"
    if missing:
        raise UserError(f"{printable(root)} has no {' and no '.join(missing)}: {mend}")
    if empty:
        raise UserError(f"{printable(root)} has no files in {', '.join(empty)}: {mend}")
    part_of = {
        path: part
        for part, name in LISTS.items()
        for path in _listed(root / name)
        if path.partition("/")[0] in DIGITS
    }
    present = [path for word in DIGITS for path in _files(root, word)]
    lost = sorted(set(part_of) - set(present))
    if lost:
        raise UserError(
            f"{printable(root)} lacks {len(lost)} files of its lists (the first: {lost[0]}): "
            "unpack the archive again"
        )
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for path in present:
        part = part_of.get(path, "train")
        parts[part].append(path)
        counts[part, path.partition("/")[0]] += 1
    report(
        [
            f"the lists of {printable(root)} leave no file of {word} for {part}"
            for part in PARTS
            for word in DIGITS
            if not counts[part, word]
        ]
    )
    return parts


def _listed(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)} is damaged (byte {error.start + 1} is no UTF-8): unpack the "
            "archive again"
        ) from error


def _files(root: Path, word: str) -> list[str]:
    return [f"{word}/{path}" for path in find_audio(root / word, ("wav",))]


def place(source: Path, target: Path) -> None:
    """Link a file, or copy it to another disk; one that is there already stays.

    Raises:
        UserError: the output cannot be written, or another file has the name.
    """
    try:
        if target.exists():
            if target.stat().st_size != source.stat().st_size:
                raise UserError(
                    f"{printable(target)} is another file than {printable(source)}: choose another "
                    "--output-dir"
                )
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another disk, or one that has no links
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(f"{printable(target)} cannot be written: {error.strerror}") from error


def write_part(root: Path, paths: Sequence[str], num_workers: int) -> None:
    """Index the files of a part.

    Raises:
        UserError: the folder holds files of something else, or none that can be read.
    """
    found = scan(root, ("wav",), num_workers)
    for _, reason in found.unreadable:
        print(f"unreadable: {reason}", file=sys.stderr)
    others = sorted({entry.file_path for entry in found.entries} - set(paths))
    if others:
        raise UserError(
            f"{printable(root)} holds {len(others)} files that are not of this part (the first: "
            f"{others[0]}): choose another --output-dir"
        )
    entries = [
        replace(entry, extra={"speaker": Path(entry.file_path).stem.partition("_")[0]})
        for entry in found.entries
    ]
    if not entries:
        raise UserError(f"no file of {printable(root)} can be read")
    path = write_index(root, entries)
    seconds = sum(entry.num_frames / entry.sample_rate for entry in entries)
    left_out = f", {len(found.unreadable)} unreadable left out" if found.unreadable else ""
    print(f"{printable(path)}: {counted(len(entries), 'files')}, {duration(seconds)}{left_out}")


if __name__ == "__main__":
    sys.exit(main())
