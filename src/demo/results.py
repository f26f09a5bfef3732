"""The demo's test files, and what became of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioReader, AudioWriter, read
from open_miipher.base.errors import UserError
from open_miipher.base.rows import read_rows
from open_miipher.degradation import (
    Context,
    DegradationConfig,
    NoiseSource,
    Trace,
    build_degradation,
)
from open_miipher.evaluation.metrics import score_file, score_table
from open_miipher.evaluation.spectrograms import Panel, save_spectrograms

# Noise from the demo's recordings always, and sometimes a narrow band or an overdriven input.
DAMAGE = {
    "noise": {"name": "noise", "snr_db": [3.0, 10.0]},
    "soft_clipping": {"name": "soft_clipping", "probability": 0.3},
    "low_pass": {"name": "low_pass", "cutoff": [5000.0, 7000.0], "probability": 0.3},
}
PICTURE_ROWS, PICTURE_SECONDS = 3, 8


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files below a folder, sorted."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower().lstrip(".") in AUDIO_EXTENSIONS
    )


def make_test_files(output: Path) -> None:
    """Write the held-back sentences as they are to clean/ and damaged to noisy/, same names.

    Args:
        output: the demo's folder, with data/speech/test and data/noise.
    """
    noise = recorded_noise(audio_files(output / "data/noise"))
    for seed, path in enumerate(audio_files(output / "data/speech/test")):
        waveform, sample_rate = read(path)
        chain = build_degradation(DegradationConfig(DAMAGE), Context(sample_rate, noise))
        noisy = chain(waveform[0], np.random.default_rng(seed), Trace(waveform[0]))
        for folder, samples in (("clean", waveform[0]), ("noisy", noisy)):
            (output / folder).mkdir(exist_ok=True)
            target = output / folder / f"{path.stem}.wav"
            with AudioWriter(target, sample_rate, 1, subtype="FLOAT") as writer:
                writer.write(samples[None])


def recorded_noise(files: Sequence[Path]) -> NoiseSource:
    """Return what draws a stretch of one of the (mono) files, repeated if it is short."""
    recordings = [(path.name, read(path)[0][0]) for path in files]

    def draw(rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, str]:
        name, recording = recordings[rng.integers(len(recordings))]
        start = int(rng.integers(len(recording)))
        return np.resize(np.roll(recording, -start), num_samples), name

    return draw


def compare(output: Path, folder: str, picture: str, audio_dir: Path | None) -> str:
    """Draw a picture and return the table of before and after.

    Args:
        output: the demo's folder; for its own test files, clean/ and noisy/ are there.
        folder: where in it the restored files are.
        picture: name of the picture.
        audio_dir: what was restored if it was the user's: nothing clean is known then.

    Raises:
        UserError: no file could be restored.
    """
    rows = list(read_rows(output / folder / "manifest.jsonl"))
    scores, failures = [], []
    pictures: list[list[Panel]] = []
    for row in rows:
        if row["error"] is not None:
            failures.append(f"not restored: {row['input']}: {row['error']}")
            continue
        name = row["output"]
        noisy = (audio_dir or output / "noisy") / row["input"]
        restored = output / folder / name
        clean = None if audio_dir else output / "clean" / name
        scores.append(score_file(name, noisy, restored, clean))
        if len(pictures) < PICTURE_ROWS:
            files = {"noisy": noisy, "restored": restored, "clean": clean}
            pictures.append([panel(f"{k}: {name}", path) for k, path in files.items() if path])
    if not scores:
        raise UserError("\n".join(["no file could be restored", *failures]))
    save_spectrograms(output / picture, pictures)
    return "\n".join([score_table(scores), *failures])


def panel(title: str, path: Path) -> Panel:
    """Return the first seconds of a file for the picture."""
    with AudioReader(path) as reader:
        sample_rate = reader.info.sample_rate
        waveform = next(reader.blocks(PICTURE_SECONDS * sample_rate)).mean(axis=0)
    return Panel(title, waveform, sample_rate)
