"""Numbers that say how near a restored file is to the clean one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from open_miipher.audio.io import read
from open_miipher.audio.resample import resample
from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.errors import UserError
from open_miipher.evaluation.tables import format_table


@dataclass
class FileScore:
    """What was measured of one file; distances are None where no clean file is known."""

    name: str
    seconds: float
    noisy_level: float
    restored_level: float
    noisy_distance: float | None = None
    restored_distance: float | None = None


def level_db(waveform: np.ndarray) -> float:
    """Return the root mean square in dB of full scale; -inf for silence.

    Args:
        waveform: (…, samples), full scale 1.
    """
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")


def read_mono(path: Path, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a file as the mean of its channels, at its own rate or at `sample_rate`.

    Returns:
        (samples,) float32 and the rate in Hz.

    Raises:
        UserError: the file cannot be read.
    """
    waveform, rate = read(path)
    mono = waveform.mean(axis=0)
    if sample_rate is None or sample_rate == rate:
        return mono, rate
    return resample(mono, rate, sample_rate), sample_rate


def distance_db(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Return the log-spectral distance of two waveforms (samples,) at `sample_rate`, in dB.

    Raises:
        UserError: their lengths differ.
    """
    if reference.shape != estimate.shape:
        raise UserError(
            f"a clean and a compared waveform have {reference.shape[-1]} and {estimate.shape[-1]} "
            "samples: compare files of equal length"
        )
    pair = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (reference, estimate))
    return float(log_spectral_distance(*pair, sample_rate)[0])


def score_file(name: str, noisy: Path, restored: Path, clean: Path | None) -> FileScore:
    """Measure one restored file; all are compared at the clean file's rate.

    Raises:
        UserError: a file cannot be read, or the restored one has not the noisy one's length.
    """
    if clean is None:
        before, rate = read_mono(noisy)
        after, _ = read_mono(restored)
        return FileScore(name, len(before) / rate, level_db(before), level_db(after))
    reference, rate = read_mono(clean)
    before, _ = read_mono(noisy, rate)
    after, _ = read_mono(restored, rate)
    return FileScore(
        name,
        len(before) / rate,
        level_db(before),
        level_db(after),
        distance_db(reference, before, rate),
        distance_db(reference, after, rate),
    )


def mean_score(scores: Sequence[FileScore]) -> FileScore:
    """Return the mean of every column; a distance that one file lacks has no mean."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    count = len(scores)
    return FileScore(
        "mean",
        sum(score.seconds for score in scores) / count,
        sum(score.noisy_level for score in scores) / count,
        sum(score.restored_level for score in scores) / count,
        mean([score.noisy_distance for score in scores]),
        mean([score.restored_distance for score in scores]),
    )


def score_table(scores: Sequence[FileScore]) -> str:
    """Format scores as a table, with a last row of means and "-" where no clean file is known."""
    header = ["file", "seconds", "noisy dBFS", "restored dBFS", "noisy LSD", "restored LSD"]
    return format_table(header, [_cells(score) for score in [*scores, mean_score(scores)]])


def _cells(score: FileScore) -> list[str]:
    distances = (score.noisy_distance, score.restored_distance)
    return [
        score.name,
        f"{score.seconds:.2f}",
        f"{score.noisy_level:.1f}",
        f"{score.restored_level:.1f}",
        *("-" if distance is None else f"{distance:.2f}" for distance in distances),
    ]
