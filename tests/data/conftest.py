"""Small indexed directories of made audio."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.index import Entry, write_index


@pytest.fixture
def make_dir(tmp_path):
    """Write waveforms, (frames,) or (frames, channels) at a rate, and their index."""

    def make(name: str, files: dict[str, tuple[np.ndarray, int]]) -> str:
        root = tmp_path / name
        entries = []
        for path, (waveform, rate) in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            subtype = "FLOAT" if Path(path).suffix == ".wav" else None
            soundfile.write(root / path, waveform, rate, subtype=subtype)
            channels = 1 if waveform.ndim == 1 else waveform.shape[1]
            entries.append(Entry(path, rate, len(waveform), channels))
        write_index(root, entries)
        return str(root)

    return make


@pytest.fixture
def speech_dir(make_dir):
    """Six files of noise in bursts, of several rates and lengths."""
    rng = np.random.default_rng(0)

    def bursts(rate: int, seconds: float) -> np.ndarray:
        times = np.arange(round(rate * seconds)) / rate
        envelope = np.maximum(0.02, np.sin(2 * np.pi * 2 * times))
        return (0.2 * envelope * rng.standard_normal(len(times))).astype(np.float32)

    rates = [8000, 16000, 24000, 44100, 48000, 24000]
    seconds = [1.0, 0.3, 1.5, 0.7, 1.2, 0.05]
    return make_dir(
        "speech",
        {
            f"s{k}/{k}.wav": (bursts(r, s), r)
            for k, (r, s) in enumerate(zip(rates, seconds, strict=True))
        },
    )
