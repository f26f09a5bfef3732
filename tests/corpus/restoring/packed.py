"""Shards of speech, made and read for tests."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from open_miipher.shards import (
    Sample,
    ShardWriter,
    read_samples,
)

RNG = np.random.default_rng(0)


def audio(seconds: float = 0.2, rate: int = 8000, format: str = "flac", channels: int = 1) -> bytes:
    file = io.BytesIO()
    waveform = 0.1 * RNG.standard_normal((round(seconds * rate), channels))
    soundfile.write(file, waveform, rate, format=format)
    return file.getvalue()


def decode(data: bytes) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(data))


def pack(path: Path, samples: Iterable[Sample]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as writer:
        for sample in samples:
            writer.add(sample)
    return path


def unpack(path: Path) -> list[Sample]:
    with path.open("rb") as file:
        return list(read_samples(file, str(path)))


def speech(number: int, **kwargs) -> Sample:
    text, info = f"words {number}".encode(), b'{"speaker": \xff}'
    return Sample(f"d/k{number}", {"flac": audio(**kwargs), "txt": text, "json": info})


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out: Path) -> list[str]:
    found = [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()]
    return sorted(f for f in found if not f.startswith(".ledger/"))
