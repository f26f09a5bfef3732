"""Numbers that say how near a restored file is to the clean one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from open_miipher.audio.io import AudioReader, read
from open_miipher.audio.mixing import mix_of
from open_miipher.audio.resample import resample
from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.base.errors import UserError
from open_miipher.evaluation.tables import format_table

_BLOCK_FRAMES = 1 << 18


@dataclass
class FileScore:
    """What was measured of one file; distances are None where no clean file is known."""

    name: str
    seconds: float
    noisy_level: float
    restored_level: float
    noisy_distance: float | None = None
    restored_distance: float | None = None


def file_level_db(path: Path) -> tuple[float, float]:
    """Return a file's seconds and its level in dB of full scale, in constant memory.

    Raises:
        UserError: the file cannot be read.
    """
    energy = 0.0
    with AudioReader(path) as reader:
        info = reader.info
        for block in reader.blocks(_BLOCK_FRAMES):
            energy += float(np.sum(np.square(block, dtype=np.float64)))
    power = energy / (info.num_frames * info.num_channels)
    return info.num_frames / info.sample_rate, _decibels(power)


def read_mono(path: Path, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a file, its channels mixed to one, at its own rate or at `sample_rate`.

    Returns:
        (samples,) float32 and the rate in Hz.

    Raises:
        UserError: the file cannot be read.
    """
    waveform, rate = read(path)
    mixed = mono(waveform)
    if sample_rate is None or sample_rate == rate:
        return mixed, rate
    return resample(mixed, rate, sample_rate), sample_rate


def mono(waveform: np.ndarray) -> np.ndarray:
    """Mix channels (channels, samples) to one (samples,), so that none cancels another."""
    return waveform[0] if len(waveform) == 1 else mix_of([waveform]).apply(waveform)[0]


def score_file(name: str, noisy: Path, restored: Path, clean: Path | None) -> FileScore:
    """Measure one restored file; distances are taken at the clean file's rate.

    Raises:
        UserError: a file cannot be read, or is not as long as the clean one.
    """
    seconds, noisy_level = file_level_db(noisy)
    _, restored_level = file_level_db(restored)
    score = FileScore(name, seconds, noisy_level, restored_level)
    if clean is not None:
        reference, rate = read_mono(clean)
        score.noisy_distance, score.restored_distance = (
            _distance_db(reference, read_mono(path, rate)[0], rate) for path in (noisy, restored)
        )
    return score


def _distance_db(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    if reference.shape != estimate.shape:
        raise UserError(
            f"a clean and a compared waveform have {reference.shape[-1]} and {estimate.shape[-1]} "
            "samples: compare files of equal length"
        )
    a, b = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (reference, estimate))
    return float(log_spectral_distance(a, b, sample_rate)[0])


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
    """Format scores as a table with a last row of means; distances only if there are any."""
    columns: dict[str, Callable[[FileScore], str]] = {
        "file": lambda score: score.name,
        "seconds": lambda score: f"{score.seconds:.2f}",
        "noisy dBFS": lambda score: f"{score.noisy_level:.1f}",
        "restored dBFS": lambda score: f"{score.restored_level:.1f}",
    }
    if any(score.noisy_distance is not None for score in scores):
        columns["noisy LSD"] = lambda score: _distance_cell(score.noisy_distance)
        columns["restored LSD"] = lambda score: _distance_cell(score.restored_distance)
    rows = [*scores, mean_score(scores)]
    return format_table(list(columns), [[cell(row) for cell in columns.values()] for row in rows])


def _decibels(power: float) -> float:
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")


def _distance_cell(distance: float | None) -> str:
    return "-" if distance is None else f"{distance:.2f}"
