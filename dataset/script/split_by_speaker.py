"""Assemble speech, noise and rooms into a part to train on and a part that is held back.

    python dataset/script/split_by_speaker.py --speech-dirs DIR … [--noise-dirs DIR …]
        [--rir-dirs DIR …] --output-dir OUT

Every DIR has a metadata.csv; that of speech has a column `speaker`. OUT gets train/ and test/, each
with speech/, noise/ and rir/ (WAV files and a metadata.csv). A speaker, a noise recording or a room
(files that differ in `_ch0`, `_ch1` … are of one room) is in one part alone, chosen by a hash of
its name, so that others that are added later move nobody. Every speaker gets equally many files,
what there is of that speaker joined into so many pieces, or repeated: an epoch hears each of them
as often. Exit status: 0 done, 2 wrong use.
"""

import argparse
import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np

from open_miipher.audio.io import AudioWriter, read
from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.paths import printable
from open_miipher.commands import Parser
from open_miipher.index import METADATA_NAME, Entry, read_index, write_index

PARTS = ("train", "test")


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--speech-dirs", type=Path, nargs="+", required=True)
    parser.add_argument("--noise-dirs", type=Path, nargs="*", default=[])
    parser.add_argument("--rir-dirs", type=Path, nargs="*", default=[], help="measured rooms")
    parser.add_argument("--output-dir", type=Path, required=True, help="made if missing")
    parser.add_argument(
        "--files-per-speaker", type=int, default=4, help="in an epoch (default: %(default)s)"
    )
    parser.add_argument(
        "--held-back", type=float, default=0.1, help="share of each kind (default: %(default)s)"
    )
    return parser.parse_args()


@exit_on_user_error
def main() -> int:
    """Split and write."""
    arguments = _arguments()
    if arguments.files_per_speaker < 1 or not 0 < arguments.held_back < 1:
        raise UserError("--files-per-speaker must be at least 1, --held-back between 0 and 1")
    for kind in ("speech", "noise", "rir"):
        files: dict[str, list[tuple[Path, Entry]]] = defaultdict(list)
        for directory in getattr(arguments, f"{kind}_dirs"):
            for entry in read_index(str(directory)).entries:
                files[group_of(directory, entry, kind)].append((directory, entry))
        for part in PARTS:
            own = {
                name: group
                for name, group in sorted(files.items())
                if is_held_back(name, arguments.held_back) == (part == "test")
            }
            if files and not own:
                raise UserError(f"no {kind} is left for {part}; change --held-back or give more")
            count = arguments.files_per_speaker if kind == "speech" else None
            if own:
                write_part(arguments.output_dir / part / kind, own, count)
    return 0


def group_of(directory: Path, entry: Entry, kind: str) -> str:
    """Return what a file must not be parted from: its speaker, its recording or its room.

    Raises:
        UserError: speech without a speaker.
    """
    if kind != "speech":
        return re.sub(r"_ch\d+$", "", Path(entry.file_path).stem)
    if not entry.extra.get("speaker"):
        raise UserError(
            f"{printable(directory / METADATA_NAME)} names no speaker of {entry.file_path}; give "
            "the column `speaker`"
        )
    return entry.extra["speaker"]


def is_held_back(name: str, share: float) -> bool:
    """Whether a hash of the name falls into the share."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < share * 2**32


def write_part(
    root: Path, groups: Mapping[str, Sequence[tuple[Path, Entry]]], count: int | None
) -> None:
    """Write the files of one part and kind, and their index.

    Args:
        root: where to.
        groups: the files of each speaker, recording or room.
        count: pieces a group; None: as many as it has files.
    """
    if (root / METADATA_NAME).exists():
        raise UserError(f"{printable(root)} holds a {METADATA_NAME} already; remove it first")
    root.mkdir(parents=True, exist_ok=True)
    entries, seconds = [], 0.0
    for name, files in groups.items():
        number = count or len(files)
        pieces = [files[k::number] or [files[k % len(files)]] for k in range(number)]
        for place, piece in enumerate(pieces):
            waveform, rate = joined(directory / entry.file_path for directory, entry in piece)
            path = root / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}-{place:02d}.wav"
            with AudioWriter(path, rate, len(waveform)) as writer:
                writer.write(waveform)
            entries.append(
                Entry(path.name, rate, waveform.shape[1], len(waveform), {"group": name})
            )
            seconds += waveform.shape[1] / rate
    path = write_index(root, entries)
    print(f"{printable(path)}: {len(groups)} groups, {len(entries)} files, {seconds / 3600:.2f} h")


def joined(paths: Iterable[Path]) -> tuple[np.ndarray, int]:
    """Read files and put one after the other, at the lowest of their rates.

    Files of several channels give the first.

    Returns:
        (1, samples) float32 and the rate in Hz.
    """
    read_files = [read(path) for path in paths]
    rate = min(rate for _, rate in read_files)
    return np.concatenate([resample(w[:1], own, rate) for w, own in read_files], axis=1), rate


if __name__ == "__main__":
    sys.exit(main())
