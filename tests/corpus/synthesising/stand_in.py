"""A backend and a codec of known cost and faults: a module of its own, since workers import it."""

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from open_miipher.synthesis.judging import expected_seconds

RATE = 16000


class Speaks:
    """Says every text as a tone of its expected length; does what the words of a text say.

    Args:
        folder: gets a line for every batch, in `log`.
        seconds: that a batch takes.
    """

    sample_rate, fingerprint = RATE, "stand-in"

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def speak(self, texts, seeds):
        with (self._folder / "log").open("a") as file:
            file.write(f"{os.getpid()} {' '.join(map(str, map(len, texts)))}\n")
        time.sleep(self._seconds)
        return [self._say(text, seed) for text, seed in zip(texts, seeds, strict=True)]

    def _say(self, text: str, seed: int) -> np.ndarray:
        word = text.split()[0]
        is_first = self._is_first(text)
        if word == "raises" or (word == "raises-once" and is_first):
            raise KeyError("no such phoneme")
        if word == "hangs" or (word == "hangs-once" and is_first):
            time.sleep(3600)
        if word == "dies" or (word == "dies-once" and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        seconds = expected_seconds(text, 15.0)
        t = np.arange(round(RATE * seconds)) / RATE
        tone = 0.2 * np.sin(2 * np.pi * (100 + seed % 400) * t)
        if word == "silent" or (word == "silent-once" and is_first):
            tone *= 0
        if word == "short":
            tone = tone[: len(tone) // 10]
        return tone.astype(np.float32)

    def _is_first(self, text: str) -> bool:
        if not text.split()[0].endswith("-once"):
            return False
        mark = self._folder / f"mark-{text.replace(' ', '-')}"
        if mark.exists():
            return False
        mark.touch()
        return True


class Counts:
    """A codec of 2 codebooks at 75 Hz, whose tokens are the number of the frame and its double."""

    sample_rate, hop, fingerprint = 24000, 320, "counts"

    def encode(self, waveforms, lengths):
        frames = (torch.arange(-(-int(length) // self.hop)) % 1024 for length in lengths)
        return [torch.stack([f, 2 * f % 1024], 1).to(torch.int16) for f in frames]


class Load:
    """Gives both to a worker."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self, device: str):
        return Speaks(self._folder, self._seconds), Counts()


def records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
