"""Decode every output of a run and measure it against what was recorded of it."""

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from open_miipher.audio.io import AudioError, AudioFile, AudioReader, Encoded, shown
from open_miipher.base.atomic import is_temporary
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row, read_rows
from open_miipher.base.threads import in_threads
from open_miipher.corpus.ledger import MANIFEST_NAME, Ledger
from open_miipher.corpus.progress import Progress
from open_miipher.restoration import Level
from open_miipher.shards import ShardError, read_samples, read_tokens

SILENT_BELOW = -80.0
"""dB of full scale: nothing is heard in an output below this …"""

SPEECH_ABOVE = -60.0
"""… and something in an input above this."""

_FIELDS = (
    *("error", "output", "outputs", "output_bytes", "duration", "num_frames", "sample_rate"),
    *("num_channels", "input_level_db", "output_level_db", "num_samples"),
)
_BLOCK_FRAMES = 1 << 16
_LEVEL_TOLERANCE = 0.05  # of the level, beside a step of the samples' kind
_COARSE = ("PCM_U8", "PCM_S8", "ALAW", "ULAW")


@dataclass(frozen=True)
class Wrong:
    """Something that is not as recorded.

    Attributes:
        problem: a sentence that names the file.
        item: the input that it belongs to; None for a file that is nobody's output.
    """

    problem: str
    item: str | None = None


def verify(
    ledger: Ledger,
    num_threads: int,
    is_running: bool,
    shown: bool,
    unit: str = "files",
    outputs_elsewhere: bool = False,
) -> list[Wrong]:
    """Check the outputs of all items, look for files that are none, and compare the manifest.

    Args:
        ledger: of the output directory; nothing is written.
        num_threads: files decoded at once.
        is_running: tasks are at work: what they may be changing now is left out.
        shown: whether to say how far it is.
        unit: what the outputs are, for people.
        outputs_elsewhere: outputs that are missing were moved away, and are passed over.

    Returns:
        What is wrong, in the order of the inputs.

    Raises:
        UserError: the outputs are those of preprocessing, or of an evaluation.
    """
    rows = ledger.rows(fields=_FIELDS)
    _refuse_other_work(ledger, rows)
    gone = ledger.gone()
    asked_for = (row for item, row in sorted(rows.items()) if item not in gone)
    done = [row for row in asked_for if row["output"] is not None]

    def check(row: Row) -> list[Wrong]:
        if outputs_elsewhere and not os.path.lexists(ledger.root.parent / row["output"]):
            return []
        return [Wrong(problem, row["id"]) for problem in problems_of(ledger, row)]

    wrong = []
    seconds = math.fsum(row["duration"] for row in done)
    with Progress(len(done), seconds, shown, unit=unit) as progress:
        for row, found in zip(done, in_threads(check, done, num_threads), strict=True):
            progress.advance(row["duration"])
            wrong += found
    if not is_running:
        return [*wrong, *_extra_files(ledger, rows, is_running), *_manifest_problem(ledger, done)]
    # A task may have made a file again while it was being checked.
    again = ledger.rows({entry.item for entry in wrong if entry.item is not None}, _FIELDS)
    still = [check(row) for _, row in sorted(again.items()) if row["output"] is not None]
    return [*chain.from_iterable(still), *_extra_files(ledger, rows, is_running)]


def _refuse_other_work(ledger: Ledger, rows: Mapping[str, Row]) -> None:
    """See that the outputs are restorations, or tokens.

    Raises:
        UserError: they are something else.
    """
    identity, folder = ledger.state()["identity"], ledger.root.parent
    if identity.get("of") == "evaluation":
        raise UserError(
            f"--verify checks restorations, and {folder} holds what src/evaluate.py measured; the "
            "same command measures again what changed"
        )
    if not any("outputs" in row for row in rows.values()):
        return
    quoted = shlex.quote(str(folder))
    if "from" in identity:
        holds = (
            f"{quoted} holds sounds of src/generate.py; the same command makes those again that "
            "are missing or of another size"
        )
    elif "tts" in identity:
        holds = (
            f"{quoted} holds speech of src/synthesize.py; the same command makes what is missing "
            "or of another size again"
        )
    else:
        holds = (
            f"{quoted} holds shards of src/preprocess.py; every one of them is read by: python "
            f"dataset/script/summarise_shards.py {quoted}"
        )
    raise UserError(f"--verify checks restorations, and {holds}")


def problems_of(ledger: Ledger, row: Row) -> list[str]:
    """Say in which ways an output differs from its row; nothing if it does not."""
    path = ledger.root.parent / row["output"]
    if not path.is_file():
        return [f"{printable(path)} is missing"]
    codec = ledger.state()["identity"].get("codec")
    if "num_samples" not in row:
        problems = audio_problems(path, row)
    elif codec is None:
        problems = shard_problems(path, row, ledger.samples(row["id"]))
    else:
        problems = token_problems(path, codec, ledger.samples(row["id"]))
    size = path.stat().st_size
    if not problems and size != row["output_bytes"]:
        problems = [f"{printable(path)}: it has {size} bytes and had {row['output_bytes']}"]
    return problems


def shard_problems(path: Path, row: Row, samples: Iterable[Row]) -> list[str]:
    """Compare every restored member of a shard with what was recorded of it."""
    recorded = {s["audio_filepath"]: s for s in samples if s["error"] is None}
    problems, num_samples = list[str](), 0
    try:
        with path.open("rb") as file:
            for sample in read_samples(file, printable(path)):
                found = []
                for name, data in sample.members.items():
                    known = recorded.pop(f"{sample.key}.{name}", None)
                    if known is not None:
                        member = Encoded(f"{path}/{sample.key}.{name}", data)
                        found.append(audio_problems(member, known))
                num_samples += bool(found)
                problems += chain.from_iterable(found)
    except ShardError as error:
        return [str(error)]
    problems += [f"{printable(path)}/{printable(name)} is missing" for name in recorded]
    if not problems and num_samples != row["num_samples"]:
        problems = [f"{printable(path)} holds {num_samples} samples and had {row['num_samples']}"]
    return problems


def token_problems(path: Path, codec: str, samples: Iterable[Row]) -> list[str]:
    """Compare the tokens of a shard with what was recorded of them."""
    recorded = {s["tokens_filepath"]: s["num_frames"] for s in samples if s["error"] is None}
    problems = []
    try:
        with path.open("rb") as file:
            for tokens in read_tokens(file, printable(path), codec):
                member, frames = f"{tokens.name}.npy", len(tokens.codes)
                known = recorded.pop(member, frames)
                if known != frames:
                    place = f"{printable(path)}/{printable(member)}"
                    problems.append(f"{place} has {frames} frames and had {known}")
    except UserError as error:
        return [str(error)]
    return problems + [f"{printable(path)}/{printable(name)} is missing" for name in recorded]


def audio_problems(file: AudioFile, row: Row) -> list[str]:
    """Decode an output and compare it with its row."""
    level = Level()
    try:
        with AudioReader(file) as reader:
            info = reader.info
            for block in reader.blocks(_BLOCK_FRAMES):
                level.add(block)
    except AudioError as error:
        return [str(error)]
    differences = [
        f"{name} is {getattr(info, name)} and was {row[name]}"
        for name in ("num_frames", "sample_rate", "num_channels")
        if getattr(info, name) != row[name]
    ]
    if not differences and "output_level_db" in row:
        differences = _level_problems(level, info.subtype, row)
    return [f"{shown(file)}: {', '.join(differences)}"] if differences else []


def _level_problems(level: Level, subtype: str, row: Row) -> list[str]:
    written, heard = row["output_level_db"], row["input_level_db"]
    recorded = 0.0 if written is None else 10 ** (written / 20)
    step = 2**-6 if subtype in _COARSE else 2**-15
    if abs(level.rms - recorded) > _LEVEL_TOLERANCE * recorded + step:
        return [f"its level is {_decibels(level.decibels)} and was {_decibels(written)}"]
    is_silent = written is None or written < SILENT_BELOW
    if is_silent and heard is not None and heard > SPEECH_ABOVE:
        return [f"it is silent, and its input, at {_decibels(heard)}, is not"]
    return []


def _decibels(level: float | None) -> str:
    return "digital silence" if level is None else f"{level:.1f} dB"


def _extra_files(ledger: Ledger, rows: Mapping[str, Row], is_running: bool) -> Iterator[Wrong]:
    """Find files that are no output of these rows; of running tasks, none in the making."""
    output_dir = ledger.root.parent
    outputs = {row["output"] for row in rows.values() if row["output"] is not None}
    failed = {item for item, row in rows.items() if row["output"] is None}
    identity = ledger.state()["identity"]
    extension = "tar" if identity.get("outputs") == "shards" else identity["format"]
    # An output that has a name and no row: a run was killed in between, or is just doing it.
    named = {output: item for item, output in ledger.names(extension).items()}
    for folder, folders, files in os.walk(output_dir):
        is_root = Path(folder) == output_dir
        folders[:] = sorted(name for name in folders if not (is_root and name == ".ledger"))
        for path in (Path(folder, file) for file in sorted(files)):
            name = path.relative_to(output_dir).as_posix()
            if name in outputs or name == MANIFEST_NAME:
                continue
            if is_temporary(path.name):
                if not is_running:
                    yield Wrong(f"{printable(path)} was left by a run that was killed")
            elif name not in named:
                yield Wrong(f"{printable(path)} is no output of this restoration")
            elif {named[name], name} & failed and not is_running:  # a group's item is its output
                yield Wrong(f"{printable(path)} is older than its input, which failed since")


def _manifest_problem(ledger: Ledger, done: Iterable[Row]) -> Iterator[Wrong]:
    """Compare what the manifest, if there is one already, says of what is done."""
    path = ledger.root.parent / MANIFEST_NAME
    if not path.exists():
        return
    listed = ledger.listed({"input": row["id"], **row} for row in done)
    unlisted = {row["input"]: row for row in listed if row["output"] is not None}
    for line in read_rows(path):
        row = unlisted.get(line["input"], {})
        if all(line.get(key) == value for key, value in row.items()):
            unlisted.pop(line["input"], None)
    if unlisted:
        yield Wrong(
            f"{printable(path)} lacks {len(unlisted)} outputs, or says other things of them "
            f"({printable(min(unlisted))}, for one); the same restore command writes it anew"
        )
