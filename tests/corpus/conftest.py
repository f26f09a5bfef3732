"""A stand-in model and files to restore with it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import warm
from torch import Tensor

from open_miipher.audio.formats import FileFormat
from open_miipher.corpus.inputs import Inputs
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.restoring import Restore
from open_miipher.corpus.tars import TarShards
from open_miipher.distributed import World
from open_miipher.restoration import RestoreOptions, Restorer
from open_miipher.shards import Storage

RNG = np.random.default_rng(0)


class SameAgain:
    """A model that gives its input back; 100 Hz frames at 8 kHz."""

    input_rate = output_rate = 8000
    input_hop = output_hop = 80
    needs_statistics, restores_level, is_light = False, True, False
    side_by_side = False

    def __init__(self, fingerprint: str = "same-again") -> None:
        self.fingerprint = fingerprint
        self.num_restored = 0

    def restore(self, waveform: Tensor, *_: Tensor | None) -> Tensor:
        self.num_restored += len(waveform)
        return waveform.clone()


def write(
    path: Path, seconds: float = 0.2, rate: int = 8000, channels: int = 1, **kwargs
) -> np.ndarray:
    """Write noise and return it, (frames, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = 0.1 * RNG.standard_normal((max(1, round(seconds * rate)), channels))
    soundfile.write(path, waveform, rate, **kwargs)
    return waveform


@pytest.fixture(autouse=True)
def _keep_signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers of pools be there in a moment: a fresh process imports for seconds."""
    monkeypatch.setattr("open_miipher.corpus.pool._SPAWN", warm.warm_context())


@pytest.fixture
def write_audio():
    return write


@pytest.fixture
def alone() -> World:
    return World(0, 1, torch.device("cpu"))


@pytest.fixture
def make_task(tmp_path: Path):
    """`make_task(sample_rate="input", format="flac", fingerprint=…)` over tmp_path/in → out.

    With `shards`, of those inputs into shards.
    """

    def make(
        format: str = "wav",
        subtype: str = "PCM_16",
        fingerprint: str = "same-again",
        input_dir: Path = tmp_path / "in",
        recordings: Inputs | None = None,
        shards: Inputs | None = None,
        output_dir: Path = tmp_path / "out",
        **options,
    ) -> Restore:
        options = {"chunk_seconds": 1.0, "overlap_seconds": 0.2, **options}
        restorer = Restorer(SameAgain(fingerprint), RestoreOptions(**options), batch_size=2)
        inputs = shards or recordings or Directory(input_dir)
        inputs.check(output_dir)
        return Restore(restorer, inputs, output_dir, FileFormat(format, subtype))

    return make


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def make(make_task, source: Path):
    """`make("in/*.tar", member="flac", format="flac")`: a task from shards to shards."""

    def make(*urls: object, member: str | None = None, **options):
        inputs = TarShards([str(url) for url in urls or [source]], Storage(), member)
        return make_task(shards=inputs, **options)

    return make
