"""Small raw collections, and runs over them."""

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from open_miipher.config import compose_preprocessing
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.preprocessing.task import Preprocess, build_tasks
from open_miipher.corpus.run import Summary, run
from open_miipher.index import Entry, write_index
from open_miipher.shards import Sample, decode_waveform, read_samples

RATE = 8000
SMALL = [
    "data=webdataset_preprocess_24k",
    f"data.sample_rate={RATE}",
    "data.crop_seconds=1.0",
    "data.sample_seconds=1.0",
    "data.degradation.stages.reverb.rt60=[0.1,0.2]",
    "data.degradation.stages.band_limit.rates=[4000]",
    "preprocess.shard_maxcount=3",
    "preprocess.writer_name=w",
]


def speech(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise in bursts (samples,), peak 0.5."""
    rng = np.random.default_rng(seed)
    times = np.arange(max(1, round(seconds * rate))) / rate
    waveform = rng.standard_normal(len(times)) * np.maximum(0.01, np.sin(2 * np.pi * 3 * times))
    return (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)


def encode(waveform: np.ndarray, rate: int = RATE, extension: str = "flac") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=extension.upper())
    return file.getvalue()


def pack_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def make_tar(path: Path, num_files: int = 7, seed: int = 0, mode: str = "w") -> Path:
    """A raw collection as others write them: flac, text and a speaker."""
    members = []
    for number in range(num_files):
        waveform = speech(100 * seed + number, 0.4 + 0.25 * number)
        members.append((f"utt{number:03d}.flac", encode(waveform)))
        members.append((f"utt{number:03d}.txt", b"some words"))
    return pack_tar(path, members, mode)


def make_directory(path: Path, num_files: int = 7, seed: int = 0, rate: int = RATE) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(num_files):
        waveform = speech(100 * seed + number, 0.4 + 0.25 * number, rate)
        soundfile.write(path / f"{number}.wav", waveform, rate)
        entries.append(Entry(f"{number}.wav", rate, len(waveform), 1))
    write_index(path, entries)
    return path


def samples_of(folder: Path) -> dict[str, Sample]:
    """Every sample of a folder of shards by its key; a key that stands twice fails."""
    found: dict[str, Sample] = {}
    for path in sorted(folder.rglob("*.tar")):
        with path.open("rb") as file:
            for sample in read_samples(file, str(path)):
                assert sample.key not in found
                found[sample.key] = sample
    return found


def waveforms_of(folder: Path, member: str = "input_wav.npy") -> list[np.ndarray]:
    samples = samples_of(folder)
    return [decode_waveform(samples[k].members[member], member)[0][0] for k in sorted(samples)]


def files_of(folder: Path) -> dict[str, bytes]:
    """The shards of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


@pytest.fixture(scope="session")
def pools() -> Iterator[Callable[[int], Pool]]:
    """`pools(num_workers)`: the same workers in all tests, as a fresh one imports for seconds."""
    with ExitStack() as stack:
        yield cache(lambda num_workers: stack.enter_context(Pool(num_workers)))


@pytest.fixture
def tasks(tmp_path: Path, pools, warm_workers) -> Callable[..., dict[Path, Preprocess]]:
    """`tasks("data.train.urls=[…]", …)`: the runs of a small configuration, into tmp_path/out."""

    def build(*overrides: str, pool: Pool | None = None) -> dict[Path, Preprocess]:
        given = [*SMALL, f"preprocess.output_root={tmp_path / 'out'}", *overrides]
        config = compose_preprocessing(given)
        return build_tasks(config, pool or pools(config.options.num_writers))

    return build


@pytest.fixture
def preprocess(tasks, alone) -> Callable[..., tuple[Path, Summary]]:
    """Run the first split of a configuration in this process: its folder and the summary."""

    def start(*overrides: str, **more: Any) -> tuple[Path, Summary]:
        folder, task = next(iter(tasks(*overrides).items()))
        overwrite = "preprocess.overwrite=true" in overrides
        return folder, run(task, folder, alone, overwrite, **more)

    return start
