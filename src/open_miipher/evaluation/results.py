"""What an evaluation found: plain data for tables, files and the report."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from open_miipher.base.atomic import replacing, write_lines
from open_miipher.evaluation.tables import format_table

PER_FILE, SUMMARY = "per_file.csv", "summary.json"
INPUT = "input_"
"""Before the name of a column: of the input instead of the restored file."""

_RESAMPLES = 2000  # of the bootstrap
_AT_ONCE = 1 << 22  # values that it draws at once

Row = dict[str, str | float]
"""Of a file and a system: `file`, `system`, `seconds`, values by column, `problems`."""

Summary = dict[str, dict[str, float]]
"""Name to mean, low, high (95 % interval) and n."""


@dataclass(frozen=True)
class Column:
    """One value of a recording.

    Attributes:
        name: in per_file.csv and summary.json.
        title: for people.
        unit: such as dB; empty: none.
        higher_is_better: None: neither is.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Sounds:
    """The audio files that belong together.

    Attributes:
        restored: by system; one that lacks this file is not there.
        reference: the clean recording; None: not known.
        before: what was restored; None: not known.
    """

    restored: Mapping[str, Path]
    reference: Path | None = None
    before: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """Several systems, or one, measured on the same files.

    Attributes:
        systems: their names, in the order given; differences are to the first.
        columns: what was measured of the restored files and, with `INPUT` before the name, of the
            inputs; a row lacks what could not be measured.
        rows: by file, then by system.
        sounds: by file, as in the rows.
        left_out: measures that were not taken, and why.
    """

    systems: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    sounds: Mapping[str, Sounds]
    left_out: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Of all values that a row may have."""
        own = [column.name for column in self.columns]
        has_input = any(sounds.before is not None for sounds in self.sounds.values())
        return own + [INPUT + name for name in own if has_input]

    def of(self, system: str) -> list[Row]:
        """Return the rows of a system."""
        return [row for row in self.rows if row["system"] == system]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """The means of each system, and of its files' inputs."""
        return {system: summarise(self.of(system), self.names) for system in self.systems}

    @cached_property
    def paired(self) -> dict[str, Summary]:
        """Of each but the first system: its mean differences to the first, where both have values.

        A difference is this system's value less the first one's, file by file.
        """
        first = {row["file"]: row for row in self.of(self.systems[0])}
        names = [column.name for column in self.columns]
        found = {}
        for system in self.systems[1:]:
            differences: list[Row] = []
            for row in self.of(system):
                other = first.get(row["file"], {})
                both = [name for name in names if name in row and name in other]
                differences.append({name: float(row[name]) - float(other[name]) for name in both})
            found[system] = summarise(differences, names)
        return found


def summarise(rows: Sequence[Row], columns: Sequence[str]) -> Summary:
    """Return for every column that has values: mean, 95 % bootstrap interval, number of files.

    Neither the order of the rows nor the other columns change a number.
    """
    summary = {}
    for column in columns:
        values = np.sort(np.array([row[column] for row in rows if column in row], np.float64))
        if not len(values):
            continue
        means = _resampled_means(values, np.random.default_rng(0))
        low, high = np.percentile(means, [2.5, 97.5])
        summary[column] = {
            "mean": float(values.mean()),
            "low": float(low),
            "high": float(high),
            "n": len(values),
        }
    return summary


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the means of as many values, drawn again and again: (resamples,)."""
    at_once = max(1, _AT_ONCE // len(values))
    means = []
    for start in range(0, _RESAMPLES, at_once):
        count = min(at_once, _RESAMPLES - start)
        means.append(values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1))
    return np.concatenate(means)


def write_results(output_dir: Path, evaluation: Evaluation, more: Summary) -> None:
    """Write per_file.csv and summary.json.

    Args:
        output_dir: an existing folder.
        evaluation: of one system or several.
        more: further values for summary.json, of one system.
    """
    several = len(evaluation.systems) > 1
    header = ["file", *(["system"] if several else []), "seconds", *evaluation.names, "problems"]
    with (
        replacing(output_dir / PER_FILE) as temporary,
        # A name that is not UTF-8 has its odd bytes escaped.
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, header, restval="", extrasaction="ignore")
        writer.writeheader()
        for row in evaluation.rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    content: object = evaluation.summaries[evaluation.systems[0]] | more
    if several:
        content = {"systems": evaluation.summaries, "paired": evaluation.paired}
    write_lines(output_dir / SUMMARY, [json.dumps(content, indent=1)])


def summary_table(evaluation: Evaluation) -> str:
    """Format the means with half the width of their intervals: input, systems, differences."""
    summaries = evaluation.summaries
    names = [column.name for column in evaluation.columns]
    inputs: Summary = {}
    for name in names:  # of the system with most files
        found = [summary[INPUT + name] for summary in summaries.values() if INPUT + name in summary]
        if found:
            inputs[name] = max(found, key=lambda value: value["n"])
    columns: dict[str, Summary] = {"input": inputs} if inputs else {}
    columns |= summaries
    columns |= {f"{x} - {evaluation.systems[0]}": y for x, y in evaluation.paired.items()}
    body = []
    for name in names:
        counts = [int(summary[name]["n"]) for summary in summaries.values() if name in summary]
        if counts:
            body.append([name, *(_cell(x, name) for x in columns.values()), str(max(counts))])
    return format_table(["metric", *columns, "files"], body)


def _cell(summary: Summary, name: str) -> str:
    if name not in summary:
        return "-"
    value = summary[name]
    return f"{value['mean']:z.3f} ± {(value['high'] - value['low']) / 2:.3f}"
