"""Sound that benchmarks are measured on: voices of harmonics, and indexed folders of noise."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from open_miipher.audio.io import AudioWriter
from open_miipher.degradation.noise import coloured_noise
from open_miipher.degradation.reverb import decaying_noise
from open_miipher.index import Entry, write_index


def voice(num_samples: int, rate: int, number: int = 0) -> np.ndarray:
    """Return harmonics of a gliding pitch, in syllables: (samples,) float64."""
    t = np.arange(num_samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(4.4 * t + number)) / rate
    harmonics: np.ndarray = sum(np.sin(k * phase) / k for k in range(1, 20))
    return harmonics * np.clip(np.sin(19 * t), 0, 1)


def noisy_voices(count: int, seconds: float, rate: int, noise: float) -> Iterator[np.ndarray]:
    """Yield different voices in white noise of some level, (samples,) float32 each."""
    for number in range(count):
        speech = 0.1 * voice(round(seconds * rate), rate, number)
        hiss = noise * np.random.default_rng(number).standard_normal(len(speech))
        yield (speech + hiss).astype(np.float32)


def make_folder(
    folder: Path,
    kind: str,
    rate: int,
    count: int,
    seconds: tuple[float, float],
    file_format: str = "flac",
) -> str:
    """Write and index speech-like bursts, noise or impulse responses; return the folder.

    Args:
        folder: to make.
        kind: speech, noise or rir.
        rate: Hz.
        count: of files.
        seconds: shortest and longest of a file; of impulse responses, of their decay.
        file_format: flac or wav.
    """
    rng = np.random.default_rng(0)
    folder.mkdir()
    entries = []
    for number in range(count):
        length = seconds[0] if seconds[0] == seconds[1] else rng.uniform(*seconds)
        if kind == "rir":
            waveform = decaying_noise(rng, rate, length, 6.0)
        else:
            waveform = coloured_noise(rng, round(length * rate), rate, rng.uniform(0.5, 1.5))
        if kind == "speech":
            times = np.arange(len(waveform)) / rate
            waveform *= np.maximum(0.01, np.sin(2 * np.pi * 2 * times)).astype(np.float32)
        path = folder / f"{number:03d}.{file_format}"
        with AudioWriter(path, rate, 1, file_format) as writer:
            writer.write(0.8 * waveform[None] / np.abs(waveform).max())
        entries.append(Entry(path.name, rate, len(waveform), 1))
    write_index(folder, entries)
    return str(folder)
