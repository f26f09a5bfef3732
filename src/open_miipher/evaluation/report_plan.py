"""What a report will hold: files in order, the worst first, and which of them can be heard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_miipher.audio.io import read_header
from open_miipher.base.amounts import size
from open_miipher.base.errors import UserError
from open_miipher.base.rows import read_rows
from open_miipher.evaluation.results import INPUT, Evaluation

INPUT_LABEL = "input"
_FLAC_SHARE, _PICTURE_BYTES = 0.5, 25_000  # of 16-bit samples; of one picture

Trust = tuple[float, str]
"""How far a restored file can be trusted, 0 to 1, and the reason."""


@dataclass(frozen=True)
class ReportPlan:
    """What a report will hold.

    Series are the inputs, if there are any, and then the systems.

    Attributes:
        files: all names, the worst first.
        shown: those that can be heard, as places in `files`.
        sorted_by: the column that says which is worst, or "trust"; empty: none does.
        series: their names; None: the inputs.
        values: (series, columns, files), NaN where nothing could be measured.
        trust: (systems, files), NaN where it is not known.
        reasons: by place of system and file.
        seconds: the most of each file that can be heard, from its start.
        num_bytes: about as much as the folder will take.
    """

    files: Sequence[str]
    shown: Sequence[int]
    sorted_by: str
    series: Sequence[str | None]
    values: np.ndarray
    trust: np.ndarray
    reasons: Mapping[tuple[int, int], str]
    seconds: float
    num_bytes: int

    def __str__(self) -> str:
        return (
            f"the report lets {len(self.shown)} of {len(self.files)} files be heard "
            f"(about {size(self.num_bytes)})"
        )


def read_trust(restored_dir: Path) -> dict[Path, Trust]:
    """Return what the manifest of a corpus run says of its files' trust, by their path.

    Raises:
        UserError: a line of the manifest is damaged.
    """
    found = {}
    for row in read_rows(restored_dir / "manifest.jsonl"):
        if row.get("output") is not None and row.get("trust") is not None:
            kept = "the input was kept" if row.get("kept_input") else None
            reasons = [reason for reason in (row.get("trust_reason"), kept) if reason]
            found[(restored_dir / row["output"]).resolve()] = row["trust"], "; ".join(reasons)
    return found


def plan_report(
    evaluation: Evaluation,
    trusted: Mapping[Path, Trust],
    num_files: int,
    seconds: float,
) -> ReportPlan:
    """Put the files in order and choose those that can be heard; cheap, so that it can be told.

    A third of these are the worst, a sixth the best, and the others evenly spaced between.

    Args:
        evaluation: what was measured.
        trusted: from `read_trust`, of all systems; empty: not known.
        num_files: how many can be heard.
        seconds: the most of each that can be heard, from its start.
    """
    names = list(evaluation.sounds)
    has_input = any(sounds.before is not None for sounds in evaluation.sounds.values())
    series = [*([None] if has_input else []), *evaluation.systems]
    values = _values(evaluation, names, series)
    trust, reasons = _trust(evaluation, names, trusted)
    badness, sorted_by = _badness(evaluation, values[-len(evaluation.systems) :], trust)
    order = np.argsort(-badness, kind="stable")
    place_of = {int(old): new for new, old in enumerate(order)}
    files = [names[old] for old in order]
    shown = _chosen(len(files), num_files)
    return ReportPlan(
        files,
        shown,
        sorted_by,
        series,
        values[:, :, order],
        trust[:, order],
        {(system, place_of[old]): reason for (system, old), reason in reasons.items()},
        seconds,
        sum(_bytes_of(evaluation, files[place], seconds) for place in shown) + 8 * values.size,
    )


def _values(
    evaluation: Evaluation, names: Sequence[str], series: Sequence[str | None]
) -> np.ndarray:
    """Return all values: (series, columns, files)."""
    place_of = {name: place for place, name in enumerate(names)}
    values = np.full((len(series), len(evaluation.columns), len(names)), np.nan)
    for row in evaluation.rows:
        place = place_of[str(row["file"])]
        for number, column in enumerate(evaluation.columns):
            if column.name in row:
                values[series.index(str(row["system"])), number, place] = row[column.name]
            if series[0] is None and INPUT + column.name in row:
                values[0, number, place] = row[INPUT + column.name]
    values[~np.isfinite(values)] = np.nan
    return values


def _trust(
    evaluation: Evaluation, names: Sequence[str], trusted: Mapping[Path, Trust]
) -> tuple[np.ndarray, dict[tuple[int, int], str]]:
    """Return the trust (systems, files), and its reasons by system and file."""
    trust, reasons = np.full((len(evaluation.systems), len(names)), np.nan), {}
    for place, name in enumerate(names if trusted else []):
        for number, system in enumerate(evaluation.systems):
            path = evaluation.sounds[name].restored.get(system)
            found = trusted.get(path.resolve()) if path is not None else None
            if found is not None:
                trust[number, place], reasons[number, place] = found
    return trust, reasons


def _badness(
    evaluation: Evaluation, values: np.ndarray, trust: np.ndarray
) -> tuple[np.ndarray, str]:
    """Say how bad each file is: by its least trust, else by the first column that judges.

    Of several systems, the worst value counts; a file without a value is no bad one.

    Args:
        evaluation: what was measured.
        values: (systems, columns, files).
        trust: (systems, files).

    Returns:
        (files,), -inf without a value, and the name of what judges.
    """
    columns = evaluation.columns
    judging = [x for x in range(len(columns)) if columns[x].higher_is_better is not None]
    if np.isfinite(trust).any():
        judged, sorted_by = -trust, "trust"
    elif judging:
        column, found = columns[judging[0]], values[:, judging[0]]
        judged, sorted_by = -found if column.higher_is_better else found, column.name
    else:
        return np.full(values.shape[2], -np.inf), ""
    return np.where(np.isfinite(judged), judged, -np.inf).max(axis=0), sorted_by


def _chosen(num_files: int, wanted: int) -> list[int]:
    """Return the places that are shown, of files in order, the worst first."""
    count = min(wanted, num_files)
    worst, best = (count + 2) // 3, count // 6
    between = np.linspace(worst, num_files - best, count - worst - best, endpoint=False)
    return [*range(worst), *map(int, between), *range(num_files - best, num_files)]


def _bytes_of(evaluation: Evaluation, name: str, seconds: float) -> int:
    """Return about what the sounds and pictures of a file take."""
    total = 0
    for _, _, path in sounds_of(evaluation, name):
        try:
            info = read_header(path)
        except UserError:  # its row tells
            continue
        frames = min(info.num_frames, seconds * info.sample_rate)
        total += int(frames * min(2, info.num_channels) * 2 * _FLAC_SHARE) + 2 * _PICTURE_BYTES
    return total


def sounds_of(evaluation: Evaluation, name: str) -> list[tuple[str, str, Path]]:
    """Return the kind, label and path of what belongs to a file: input, systems, reference."""
    sounds = evaluation.sounds[name]
    systems = [("system", x, sounds.restored.get(x)) for x in evaluation.systems]
    found = [
        ("input", INPUT_LABEL, sounds.before),
        *systems,
        ("reference", "clean reference", sounds.reference),
    ]
    return [(kind, label, path) for kind, label, path in found if path is not None]
