"""Measure restored recordings, beside their inputs, the clean recordings and what is said."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError, notice, report
from open_miipher.base.paths import file_stamp, printable
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
from open_miipher.evaluation.results import Sounds
from open_miipher.evaluation.words import read_texts
from open_miipher.index.scan import find_audio

_LENGTHS_DIFFER = 0.05  # s; more than rounding and a codec's padding


def match_files(
    systems: Mapping[str, Path], reference_dir: Path | None = None, input_dir: Path | None = None
) -> dict[str, Sounds]:
    """Find what belongs together: the same path, any extension.

    A file has the name that the first system with it gives it. A system that lacks some files is
    told of, and measured on those that it has.

    Args:
        systems: the folder of each system's restored files.
        reference_dir: of the clean recordings.
        input_dir: of what was restored.

    Returns:
        By name, sorted.

    Raises:
        UserError: a folder that is missing or empty, or files without a counterpart.
    """
    restored: dict[str, dict[str, Path]] = {}
    for system, folder in systems.items():
        names = find_audio(folder)
        if not names:
            raise UserError(f"{printable(folder)} has no audio files: nothing to evaluate")
        known = counterparts(names, list(restored), f"the systems before {system}")
        for name in names:
            same = restored.setdefault(known.get(name, name), {})
            if system in same:
                raise UserError(
                    f"{printable(same[system])} and {printable(folder / name)} may both belong to "
                    f"{printable(known[name])} of the first system: leave one of them"
                )
            same[system] = folder / name
    names = sorted(restored)
    for system in systems:
        lacking = [name for name in names if system not in restored[name]]
        if lacking:
            notice(
                f"{system} has nothing for {len(lacking)} of {len(names)} files (the first: "
                f"{printable(lacking[0])}): differences count the files that both have"
            )
    found: list[dict[str, Path]] = []
    problems = []
    for option, beside in (("--reference-dir", reference_dir), ("--input-dir", input_dir)):
        found.append({})
        if beside is not None:
            own = counterparts(names, find_audio(beside), printable(beside))
            found[-1] = {name: beside / path for name, path in own.items()}
            problems += _missing(names, own, f"{option} {printable(beside)} has nothing")
    report(problems)
    clean, noisy = found
    return {name: Sounds(restored[name], clean.get(name), noisy.get(name)) for name in names}


def find_texts(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return what is said in each of the files (`words.read_texts`), in any extension's name.

    Raises:
        UserError: it cannot be read, or has nothing for a file.
    """
    texts = read_texts(path, lambda found: counterparts(names, found, printable(path)))
    report(_missing(names, texts, f"--text {printable(path)} has no line"))
    return texts


def _missing(names: Sequence[str], found: Mapping[str, object], what: str) -> list[str]:
    missing = [name for name in names if name not in found]
    return [
        f"{what} for {len(missing)} of {len(names)} restored files (the first: "
        f"{printable(name)}): give one with the same names"
        for name in missing[:1]
    ]


def counterparts(names: Sequence[str], present: Sequence[str], where: str) -> dict[str, str]:
    """Return for each of the names the path among those present that belongs to it, if one does.

    Raises:
        UserError: several do.
    """
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
                f"{where} has {' and '.join(same)} for the restored {name}: leave one of them"
            )
        if same:
            found[name] = same[0]
    return found


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


@dataclass(frozen=True)
class Recording:
    """What is measured, and what it is compared with.

    Attributes:
        path: of the recording.
        reference: the clean one; None: not known.
        text: what is said in it; None: not known.
    """

    path: Path
    reference: Path | None = None
    text: str | None = None


@dataclass(frozen=True)
class Findings:
    """What was measured of a recording.

    Attributes:
        seconds: that it lasts; None: it cannot be read.
        values: by column.
        problems: why others are missing.
    """

    seconds: float | None
    values: Values
    problems: list[str]


EvaluatorArguments = tuple[Settings, bool, bool]


class Evaluator:
    """Measures recordings one by one with what it has loaded.

    Args:
        settings: what the measures need.
        has_reference: whether clean recordings are known.
        has_text: whether it is known what is said.

    Attributes:
        arguments: those three, for another one in another process.
        measures: those that can be taken.
        left_out: the others, and why.

    Raises:
        UserError: see `load_measures`.
    """

    def __init__(self, settings: Settings, has_reference: bool, has_text: bool = False) -> None:
        self.arguments: EvaluatorArguments = settings, has_reference, has_text
        self.measures, self.left_out = load_measures(*self.arguments)

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that is other data when other values may come out of a recording."""
        settings = self.arguments[0]
        words = Path(settings.words or "")
        files = sorted(words.iterdir()) if settings.words and words.is_dir() else []
        files += [settings.nisqa_weights] if settings.nisqa_weights else []
        return {
            "measures": list(self.measures),
            "words": settings.words,
            "files": [[str(path), file_stamp(path)] for path in files],
        }

    def measure(self, recording: Recording) -> Findings:
        """Measure a recording; what cannot be measured is told in the problems."""
        problems: list[str] = []
        signal = _read(recording.path, problems)
        if signal is None:
            return Findings(None, {}, problems)
        signal.text = recording.text
        reference = _read(recording.reference, problems)
        values, failed = _measure(self.measures, signal, reference)
        seconds = len(signal.waveform) / signal.sample_rate
        return Findings(seconds, values, problems + failed)


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
        measure = MEASURES[name]
        arguments: tuple[Signal, Signal | None] = signal, reference
        if measure.needs_reference and reference is None:
            continue
        if measure.needs_reference and measure.is_aligned:
            if pair is None:
                continue
            arguments = pair
        try:
            found = measured(*arguments)
        except CannotMeasureError as error:
            failed.append(f"{name}: {error}")
            continue
        values |= {key: value for key, value in found.items() if math.isfinite(value)}
        failed += [f"{key}: it is {v}" for key, v in found.items() if not math.isfinite(v)]
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
