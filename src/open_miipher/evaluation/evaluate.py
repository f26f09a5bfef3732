"""Measure a folder of restored files, beside their inputs and the clean recordings."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

import numpy as np

from open_miipher.audio.resample import resample
from open_miipher.base.atomic import replacing, write_lines
from open_miipher.base.errors import UserError, report
from open_miipher.evaluation.measures import (
    MEASURES,
    CannotMeasureError,
    Measured,
    Settings,
    Signal,
    Values,
    load_measures,
)
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.tables import format_table
from open_miipher.index.scan import find_audio

PER_FILE, SUMMARY = "per_file.csv", "summary.json"
INPUT = "input_"
"""Before the name of a column: of the input instead of the restored file."""

_LENGTHS_DIFFER = 0.05  # s; more than rounding and a codec's padding
_RESAMPLES = 2000  # of the bootstrap

Row = dict[str, str | float]
Summary = dict[str, dict[str, float]]
"""Name to mean, low, high (95 % interval) and n."""


@dataclass
class Files:
    """The files that belong together.

    Attributes:
        name: of the restored file, relative to its folder.
        restored: its path.
        reference: the clean recording; None: not known.
        before: what was restored; None: not known.
    """

    name: str
    restored: Path
    reference: Path | None = None
    before: Path | None = None


def match_files(
    restored_dir: Path, reference_dir: Path | None = None, input_dir: Path | None = None
) -> list[Files]:
    """Find the reference and the input of every restored file: the same path, any extension.

    Raises:
        UserError: a folder that is missing or empty, or files without a counterpart.
    """
    names = find_audio(restored_dir)
    if not names:
        raise UserError(f"{restored_dir} has no audio files: nothing to evaluate")
    counterparts, problems = {}, []
    for option, folder in (("--reference-dir", reference_dir), ("--input-dir", input_dir)):
        found = _counterparts(names, folder) if folder is not None else {}
        missing = [name for name in names if name not in found] if folder is not None else []
        if missing:
            problems.append(
                f"{option} {folder} has nothing for {len(missing)} of {len(names)} restored files "
                f"(the first: {missing[0]}): give the folder with the same names"
            )
        counterparts[option] = found
    report(problems)
    return [
        Files(
            name,
            Path(restored_dir) / name,
            counterparts["--reference-dir"].get(name),
            counterparts["--input-dir"].get(name),
        )
        for name in names
    ]


def _counterparts(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the file in a folder for each restored name that has one."""
    present = find_audio(folder)
    by_stem: dict[str, list[str]] = {}
    for path in present:
        by_stem.setdefault(_stem(path), []).append(path)
    whole, found = set(present), {}
    for name in names:
        # x.wav and x.flac in one folder were restored to x.wav and x.flac.wav.
        same = [name] if name in whole else by_stem.get(_stem(name), [])
        if not same and _stem(name) in whole:
            same = [_stem(name)]
        if len(same) > 1:
            raise UserError(
                f"{folder} has {' and '.join(same)} for the restored {name}: leave one of them"
            )
        if same:
            found[name] = folder / same[0]
    return found


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def columns_of(measures: Iterable[str], has_input: bool) -> list[str]:
    """Return the columns of these measures: of the restored files, then of the inputs."""
    names = [column for measure in measures for column in MEASURES[measure].columns]
    return [*names, *(INPUT + name for name in names if has_input)]


class Evaluator:
    """Measures files one by one with what it has loaded.

    Args:
        settings: what the measures need.
        has_reference: whether clean recordings are known.
    """

    def __init__(self, settings: Settings, has_reference: bool) -> None:
        self.settings, self.has_reference = settings, has_reference
        self.measures, self.left_out = load_measures(settings, has_reference)

    def row(self, files: Files) -> Row:
        """Measure one restored file; what cannot be measured is told in the column `problems`."""
        row: Row = {"file": files.name}
        problems: list[str] = []
        reference = _read(files.reference, problems)
        for prefix, path in (("", files.restored), (INPUT, files.before)):
            signal = _read(path, problems)
            if signal is None:
                continue
            if path == files.restored:
                row["seconds"] = len(signal.waveform) / signal.sample_rate
            values, failed = _measure(self.measures, signal, reference)
            row |= {prefix + name: value for name, value in values.items()}
            problems += [f"{prefix}{text}" for text in failed]
        row["problems"] = "; ".join(problems)
        return row


def _read(path: Path | None, problems: list[str]) -> Signal | None:
    """Read a recording; None if there is none, or if it cannot be read, which is a problem."""
    try:
        return None if path is None else Signal(*read_mono(path))
    except UserError as error:
        problems.append(str(error))
        return None


def _measure(
    measures: dict[str, Measured], signal: Signal, reference: Signal | None
) -> tuple[Values, list[str]]:
    """Return all values of a recording, and why others are missing."""
    values: Values = {}
    failed: list[str] = []
    pair: tuple[Signal, Signal] | None = None
    if reference is not None:
        try:
            pair = _aligned(signal, reference)
        except CannotMeasureError as error:
            failed.append(f"reference: {error}")
    for name, measured in measures.items():
        if not MEASURES[name].needs_reference:
            arguments: tuple[Signal, Signal | None] = signal, reference
        elif pair is not None:
            arguments = pair
        else:
            continue
        try:
            values |= measured(*arguments)
        except CannotMeasureError as error:
            failed.append(f"{name}: {error}")
    return values, failed


def _aligned(signal: Signal, reference: Signal) -> tuple[Signal, Signal]:
    """Return both at the reference's rate and as long as the shorter one.

    Raises:
        CannotMeasureError: their lengths differ by more than a codec's padding.
    """
    rate = reference.sample_rate
    waveform = resample(signal.waveform, signal.sample_rate, rate)
    lengths = len(waveform), len(reference.waveform)
    if abs(lengths[0] - lengths[1]) > _LENGTHS_DIFFER * rate:
        raise CannotMeasureError(
            f"it lasts {lengths[1] / rate:.2f} s, the file {lengths[0] / rate:.2f} s"
        )
    count = min(lengths)
    return Signal(waveform[:count], rate), Signal(reference.waveform[:count], rate)


_evaluator: Evaluator | None = None  # of a worker process


def _start_worker(settings: Settings, has_reference: bool) -> None:
    global _evaluator
    import torch

    torch.set_num_threads(1)
    _evaluator = Evaluator(settings, has_reference)


def _work(files: Files) -> Row:
    assert _evaluator is not None
    return _evaluator.row(files)


def measure_all(files: Sequence[Files], evaluator: Evaluator, num_workers: int) -> Iterator[Row]:
    """Yield a row for each, in order: measured here, or by worker processes.

    Raises:
        UserError: a worker died.
    """
    count = min(num_workers, len(files))
    if count == 1:
        yield from map(evaluator.row, files)
        return
    start = partial(_start_worker, evaluator.settings, evaluator.has_reference)
    with ProcessPoolExecutor(count, get_context("spawn"), start) as pool:
        try:
            yield from pool.map(_work, files)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (is memory short?): try fewer with --num-workers"
            ) from error


def summarise(rows: Sequence[Row], columns: Sequence[str]) -> Summary:
    """Return for every column that has values: mean, 95 % bootstrap interval, number of files."""
    summary = {}
    rng = np.random.default_rng(0)
    for column in columns:
        values = np.array([row[column] for row in rows if column in row], dtype=np.float64)
        if not len(values):
            continue
        drawn = rng.integers(len(values), size=(_RESAMPLES, len(values)))
        low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
        summary[column] = {
            "mean": float(values.mean()),
            "low": float(low),
            "high": float(high),
            "n": len(values),
        }
    return summary


def write_results(
    output_dir: Path,
    rows: Sequence[Row],
    columns: Sequence[str],
    summary: Summary,
) -> None:
    """Write per_file.csv and summary.json."""
    header = ["file", "seconds", *columns, "problems"]
    with replacing(output_dir / PER_FILE) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_lines(output_dir / SUMMARY, [json.dumps(summary, indent=1)])


def summary_table(summary: Summary) -> str:
    """Format the means, restored beside input, with half the width of their intervals."""

    def cell(name: str) -> str:
        if name not in summary:
            return "-"
        value = summary[name]
        return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"

    has_input = any(name.startswith(INPUT) for name in summary)
    names = [name for name in summary if not name.startswith(INPUT)]
    header = ["metric", *(["input"] if has_input else []), "restored", "files"]
    body = [
        [
            name,
            *([cell(INPUT + name)] if has_input else []),
            cell(name),
            str(int(summary[name]["n"])),
        ]
        for name in names
    ]
    return format_table(header, body)
