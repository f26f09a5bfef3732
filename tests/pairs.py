"""Shards of pairs for tests: every sample tells which it is."""

from pathlib import Path

import numpy as np

from open_miipher.data import Preprocessed, PreprocessedConfig
from open_miipher.shards import Sample, ShardWriter, encode_waveform

RATE = 24000


def pair(
    number: int, seconds: float = 0.5, sample_rate: int = RATE, extension: str = "npy"
) -> dict[str, bytes]:
    """Members of a sample: `number` seeds a noise, the damaged side is half as loud."""
    rng = np.random.default_rng(number)
    clean = rng.uniform(-0.5, 0.5, round(seconds * sample_rate)).astype(np.float32)
    return {
        f"input_wav.{extension}": encode_waveform(clean, sample_rate, extension),
        f"noisy_input_wav.{extension}": encode_waveform(clean / 2, sample_rate, extension),
        "sr.index": str(sample_rate).encode(),
        "names.json": b"[]",
    }


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> str:
    """Write samples, members by key; returns the shard's URL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path) as writer:
        for key, members in samples.items():
            writer.add(Sample(key, members))
    return str(path)


def write_shards(root: Path, sizes: list[int], **options) -> list[str]:
    """Write shards of so many pairs each, numbered through; returns their URLs."""
    urls, first = [], 0
    for place, size in enumerate(sizes):
        samples = {f"key{n:04d}": pair(n, **options) for n in range(first, first + size)}
        urls.append(write_shard(root / f"shard-{place:03d}.tar", samples))
        first += size
    return urls


def source(train_urls, val_urls=(), **changes) -> Preprocessed:
    """Return short crops of shards as a source of data."""
    changes = {"crop_seconds": 0.2, "max_broken_shards": 1, **changes}
    val_urls = [val_urls] if isinstance(val_urls, str) else list(val_urls)
    return Preprocessed(PreprocessedConfig(train_urls=train_urls, val_urls=val_urls, **changes))
