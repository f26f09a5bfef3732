"""Signals like speech, and files of them."""

import wave
from pathlib import Path

import numpy as np


def write_wav(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write (samples,) as 16-bit wav, with nothing of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())


def voice(seed: int, seconds: float, sample_rate: int = 24000) -> np.ndarray:
    """A voice-like signal: gliding harmonics in syllables with pauses between them."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t + rng.uniform(0, 6)), 0, 1)
    return (0.15 * tone * syllables).astype(np.float32)
