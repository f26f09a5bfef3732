"""The report: a folder of static pages that shows an evaluation, and lets it be heard.

    index.html        summary, differences, distributions, all files, and each file by itself
    listen.html       a blind listening test (its votes: `evaluation/votes.py`)
    *.js *.css        the pages' programs and looks, from `pages/`, the same in every report
    data/*.js         what they show: plain data in scripts, as a page on a disk may load no other
    sounds/ pictures/ of the files that can be heard; their names tell nothing, for the blind test

Nothing is fetched from anywhere, and the folder can be moved or zipped. Only what is looked at is
loaded: rows lie in pages, worst first, and the values to sort by in a file for each column.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from open_miipher.audio.formats import is_rate_of_flac
from open_miipher.audio.io import AudioWriter, read, read_header
from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.evaluation.metrics import mono
from open_miipher.evaluation.report_plan import INPUT_LABEL, ReportPlan, sounds_of
from open_miipher.evaluation.results import Column, Evaluation, summarise
from open_miipher.evaluation.spectrograms import (
    CHANGE_DB,
    RANGE_DB,
    Grid,
    Panel,
    change_colours,
    change_image,
    level_colours,
    level_image,
    on_grid,
    top_of,
)

_PAGES = Path(__file__).with_name("pages")
_ROWS_A_PAGE, _BINS = 500, 24
_LEGEND_COLOURS = 9
_HEARD_RATE = 48000  # in place of one that FLAC cannot hold
_SCALE_PERCENTILE = 99.5  # of the pixels; what is louder has the last colour too


def check_place(folder: Path) -> None:
    """Refuse a folder that holds something else than a report.

    Raises:
        UserError: it does.
    """
    if folder.exists() and not (folder / "data/summary.js").is_file():
        raise UserError(f"{printable(folder)} holds something else than a report: move it away")


def write_report(
    folder: Path,
    evaluation: Evaluation,
    plan: ReportPlan,
    num_workers: int = 1,
    title: str = "Evaluation",
) -> None:
    """Write the report; an older one in its place is replaced once this one is whole.

    Args:
        folder: the report's; its parent exists.
        evaluation: what was measured.
        plan: from `plan_report` of the same.
        num_workers: threads that make sounds and pictures.
        title: at the top of the pages.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    check_place(folder)
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a run that was killed
        shutil.rmtree(leftover)
    temporary, old = (folder.with_name(f".{folder.name}.{name}.tmp") for name in ("new", "old"))
    try:
        shutil.copytree(_PAGES, temporary)
        for name in ("data", "sounds", "pictures"):
            (temporary / name).mkdir()
        with ThreadPoolExecutor(num_workers) as pool:
            write = partial(_write_file, temporary, evaluation, plan)
            list(pool.map(write, plan.shown))
        _write_rows(temporary, evaluation, plan)
        _write_data(temporary, "summary", _summary(evaluation, plan) | {"title": title})
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_data(folder: Path, key: str, value: object) -> None:
    """Write plain data as a script; all that is not ASCII is escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    (folder / "data" / f"{key}.js").write_text(f'report.receive("{key}",{text});\n', "ascii")


def _numbers(values: np.ndarray) -> list[Any]:
    """Return numbers of five digits in lists of lists, None for NaN."""
    if values.ndim > 1:
        return [_numbers(part) for part in values]
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def _write_rows(folder: Path, evaluation: Evaluation, plan: ReportPlan) -> None:
    """Write what the table of files shows: by pages, and by columns for sorting and searching."""
    shown = set(plan.shown)
    seconds: dict[str, float] = {}
    problems: dict[str, list[str]] = {}
    for row in evaluation.rows:
        name = str(row["file"])
        seconds[name] = float(row.get("seconds", np.nan))
        if row.get("problems"):
            problems.setdefault(name, []).append(f"{row['system']}: {row['problems']}")
    for start in range(0, len(plan.files), _ROWS_A_PAGE):
        page = [
            {
                "name": printable(name),
                "seconds": _numbers(np.array([seconds.get(name, np.nan)]))[0],
                "values": _numbers(plan.values[:, :, place]),
                "trust": _numbers(plan.trust[:, place]),
                "reasons": [plan.reasons.get((x, place), "") for x in range(len(plan.trust))],
                "problems": problems.get(name, []),
                "shown": place in shown,
            }
            for place, name in enumerate(plan.files[start : start + _ROWS_A_PAGE], start)
        ]
        _write_data(folder, f"rows-{start // _ROWS_A_PAGE}", page)
    for number, column in enumerate(evaluation.columns):
        _write_data(folder, f"column-{column.name}", _numbers(plan.values[:, number]))
    _write_data(folder, "column-trust", _numbers(plan.trust))
    _write_data(folder, "names", [printable(name) for name in plan.files])
    having = [place for place, name in enumerate(plan.files) if name in problems]
    _write_data(folder, "problems", having)


def _summary(evaluation: Evaluation, plan: ReportPlan) -> dict[str, object]:
    """Return what the first page needs."""
    first = len(plan.series) - len(evaluation.systems)  # the place of the first system
    pairs = [(0, x) for x in range(first, len(plan.series)) if first]
    pairs += [(first, x) for x in range(first + 1, len(plan.series))]
    # Votes belong to what was heard, whenever its report was written.
    heard = json.dumps([plan.files, plan.shown, plan.series, _numbers(plan.values)])
    return {
        "id": sha256(heard.encode()).hexdigest()[:16],
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "systems": list(evaluation.systems),
        "series": [INPUT_LABEL if name is None else name for name in plan.series],
        "columns": [_described(c, plan.values[:, x]) for x, c in enumerate(evaluation.columns)],
        "means": [[_mean(values) for values in of_series] for of_series in plan.values],
        "differences": [
            {"less": x, "of": y, "means": [_mean(v) for v in plan.values[y] - plan.values[x]]}
            for x, y in pairs
        ],
        "left_out": list(evaluation.left_out.items()),
        "num_files": len(plan.files),
        "rows_a_page": _ROWS_A_PAGE,
        "shown": list(plan.shown),
        "sorted_by": plan.sorted_by,
        "has_trust": bool(np.isfinite(plan.trust).any()),
        "level_colours": _hex(level_colours(_LEGEND_COLOURS)),
        "change_colours": _hex(change_colours(_LEGEND_COLOURS)),
        "range_db": RANGE_DB,
        "change_db": CHANGE_DB,
    }


def _mean(values: np.ndarray) -> list[float] | None:
    """Return mean, low and high (95 %) and number of those (files,) that are known."""
    found = summarise([{"x": float(x)} for x in values[np.isfinite(values)]], ["x"]).get("x")
    return None if found is None else [found["mean"], found["low"], found["high"], found["n"]]


def _described(column: Column, values: np.ndarray) -> dict[str, object]:
    """Return a column with the decimals it needs and its histograms.

    Args:
        column: what was measured.
        values: (series, files).
    """
    known = values[np.isfinite(values)]
    low, high = (float(x) for x in np.percentile(known, [0.5, 99.5])) if len(known) else (0.0, 0.0)
    spread = (high - low) / 4 or abs(low) or 1.0
    reach = 0.5 if high == low else 0.0
    edges = np.linspace(low - reach, high + reach, _BINS + 1)
    return {
        "name": column.name,
        "title": column.title,
        "unit": column.unit,
        "better": {True: 1, False: -1, None: 0}[column.higher_is_better],
        "decimals": int(np.clip(1 - np.floor(np.log10(spread)), 0, 3)),
        "edges": [float(edges[0]), float(edges[-1])],
        # What lies beyond the edges counts in the last bins.
        "counts": [
            np.histogram(np.clip(x[np.isfinite(x)], edges[0], edges[-1]), edges)[0].tolist()
            for x in values
        ],
    }


def _hex(colours: np.ndarray) -> list[str]:
    return [f"#{bytes(colour).hex()}" for colour in colours]


def _write_file(folder: Path, evaluation: Evaluation, plan: ReportPlan, place: int) -> None:
    """Write the sounds and pictures of one file, on one scale."""
    sounds: list[dict[str, object]] = []
    panels, missing = [], []
    for kind, label, path in sounds_of(evaluation, plan.files[place]):
        token = sha256(f"{place} {label} {path}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        try:
            waveform, rate, is_whole = _read_start(path, plan.seconds)
        except UserError as error:
            missing.append(str(error))
            continue
        held = rate if is_rate_of_flac(rate) else _HEARD_RATE
        copy = folder / f"sounds/{token}.flac"
        with AudioWriter(copy, held, len(waveform), "flac") as writer:
            writer.write(resample(waveform, rate, held))
        panels.append(Panel(label, mono(waveform), rate))
        level = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
        facts = {"seconds": waveform.shape[1] / rate, "level": level, "is_whole": is_whole}
        sounds.append({"kind": kind, "label": label, "token": token, **facts})
    content: dict[str, object] = {"sounds": sounds, "missing": missing}
    if panels:
        grid = Grid.of(panels)
        images = [on_grid(panel, grid) for panel in panels]
        top = top_of(images, _SCALE_PERCENTILE)
        content |= {"seconds": grid.seconds, "highest_hz": grid.highest_hz, "top_db": top}
        for sound, image in zip(sounds, images, strict=True):
            _save(folder, f"{sound['token']}", level_image(image, top))
            if sound["kind"] == "system" and sounds[0]["kind"] == "input":
                _save(folder, f"{sound['token']}-change", change_image(image, images[0], top))
    _write_data(folder, f"file-{place}", content)


def _read_start(path: Path, seconds: float) -> tuple[np.ndarray, int, bool]:
    """Return (channels, samples), one or two channels, the rate, and whether that is all."""
    info = read_header(path)
    count = max(1, int(min(info.num_frames, seconds * info.sample_rate)))
    waveform, rate = read(path, 0, count)
    if len(waveform) > 2:
        waveform = mono(waveform)[None]
    return waveform, rate, count == info.num_frames


def _save(folder: Path, token: str, image: np.ndarray) -> None:
    from PIL import Image  # slow to import

    Image.fromarray(image).save(folder / f"pictures/{token}.webp", quality=80)
