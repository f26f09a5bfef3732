"""Measure what restoring costs around a model that costs nothing: `restore.py --stand-in`.

A directory of speech-like files is restored as `src/inference.py` does it, through a corpus run.
The process that has the device does with its CPU what `restoration.batches.on_device` does not: it
must keep up with a device that is faster than any here.
"""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from material import voice
from processes import cpu_seconds, resident_bytes
from torch import Tensor

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.io import AudioWriter
from open_miipher.corpus.feeding import Workers
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.restoring import Restore
from open_miipher.corpus.run import run
from open_miipher.distributed import World
from open_miipher.restoration import RestoreOptions, Restorer, batches

_RATE = 16000
_LONGEST = 60.0  # s
_MOST_MADE = 120  # files
_CPU = torch.device("cpu")


class StandIn:
    """A `Model` without a network: each sample of 16 kHz three times, at 48 kHz.

    Like Sidon's and Miipher-2's chains, it gives no level: each chunk is brought to the input's.
    """

    input_rate, input_hop = _RATE, 320
    output_rate, output_hop = 48000, 960
    needs_statistics = restores_level = is_light = side_by_side = False
    fingerprint = "stand-in"

    def restore(self, waveform: Tensor, *_: Tensor | None) -> Tensor:
        """Repeat the samples."""
        return waveform.repeat_interleave(3, dim=1)


class _Meter:
    """CPU time of this process, of `on_device` in it, and of the workers, since `start`.

    And the time in which the model is at work, by the clock.
    """

    def __init__(self, workers: Workers, model: Any) -> None:
        self._workers, self._device, self._model = workers, 0.0, 0.0
        self._lock, self._num_within, self._entered = threading.Lock(), 0, 0.0
        on_device, restore = batches.on_device, model.restore

        def timed(*arguments: Any) -> None:
            began = time.thread_time()
            on_device(*arguments)
            with self._lock:
                self._device += time.thread_time() - began

        def watched(*arguments: Any) -> Tensor:
            self._step(1)
            try:
                restored: Tensor = restore(*arguments)
                return restored
            finally:
                self._step(-1)

        batches.on_device, model.restore = timed, watched

    def _step(self, change: int) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._num_within:
                self._model += now - self._entered
            self._num_within, self._entered = self._num_within + change, now

    def start(self) -> None:
        """Begin to measure."""
        self._began = self._now()

    def figures(self, seconds: float) -> dict[str, float]:
        """Return the figures of a run over so many seconds of audio."""
        wall, own, device, helpers, model = (
            now - began for now, began in zip(self._now(), self._began, strict=True)
        )
        a_second = 1000 / seconds
        return {
            "device_share": model / wall,
            "feeder_share": (own - device) / wall,
            "workers_share": helpers / wall / max(1, len(self._workers.pids)),
            "feeder_ms_per_s": (own - device) * a_second,
            "device_ms_per_s": device * a_second,
            "cpu_ms_per_s": (own + helpers) * a_second,
            "cpu_without_device_ms_per_s": (own + helpers - device) * a_second,
            "times_real_time": seconds / wall,
        }

    def _now(self) -> tuple[float, ...]:
        helpers = sum(map(cpu_seconds, self._workers.pids))
        return time.perf_counter(), time.process_time(), self._device, helpers, self._model


def measure(
    restorer: Restorer,
    format: str,
    num_files: int,
    hours: float,
    num_workers: int,
    repeats: int,
    device: torch.device = _CPU,
) -> Iterator[dict[str, Any]]:
    """Restore files once to warm up, then as often as asked; yield the figures of each time.

    Args:
        restorer: has the model.
        format: of the inputs and the outputs, wav or flac.
        num_files: to restore; beyond `_MOST_MADE`, they are links to these.
        hours: of audio that they hold together.
        num_workers: processes beside this one; 0: none.
        repeats: runs that count.
        device: that the model is on.
    """
    with tempfile.TemporaryDirectory() as name, Workers(num_workers) as workers:
        folder, meter = Path(name), _Meter(workers, restorer.model)
        num_made = min(num_files, _MOST_MADE)
        made_hours, shortest = hours * num_made / num_files, min(5.0, 1800 * hours / num_files)
        lengths = make_files(folder / "in", format, num_made, made_hours, shortest)
        made = sorted((folder / "in").iterdir())
        for number in range(num_made, num_files):
            os.link(made[number % num_made], folder / "in" / f"{number:05d}.{format}")
        seconds = sum(lengths[number % num_made] for number in range(num_files))
        for number in range(repeats + 1):
            output = folder / f"out-{number}"
            task = Restore(
                restorer,
                Directory(folder / "in"),
                output,
                FileFormat(format),
                workers=workers,
            )
            meter.start()
            with contextlib.redirect_stdout(sys.stderr):
                run(task, output, World(0, 1, device))
            figures = meter.figures(seconds)
            shutil.rmtree(output)
            if number > 0:
                yield {"run": number, **figures}


def watch_memory(num_files: int, num_workers: int, picture: Path) -> dict[str, float]:
    """Restore many short files, and draw the resident memory of each process over time.

    Returns:
        The slope of each process over the last three quarters of the files, in MiB for each 1,000
        of them, and the most that each had, in MiB.
    """
    torch.set_num_threads(1)
    restorer = Restorer(StandIn(), RestoreOptions(trust=False))
    seen: list[tuple[int, list[float]]] = []
    with tempfile.TemporaryDirectory() as name, Workers(num_workers) as workers:
        folder = Path(name)
        make_files(folder / "made", "wav", 50, 50 * 1.0 / 3600, shortest=0.3)
        (folder / "in").mkdir()
        made = sorted((folder / "made").iterdir())
        for number in range(num_files):
            os.link(made[number % len(made)], folder / "in" / f"{number:05d}.wav")
        inputs, output = Directory(folder / "in"), folder / "out"
        task = Restore(restorer, inputs, output, FileFormat("wav"), workers=workers)
        process, rows = task.process, 0

        def watched(items: Any) -> Iterator[Any]:
            nonlocal rows
            for row in process(items):
                rows += 1
                (output / row["output"]).unlink()  # the disk is small
                if rows % 50 == 0:
                    seen.append((rows, _memory(workers)))
                yield row

        task.process = watched  # type: ignore[method-assign]
        run(task, output, World(0, 1, torch.device("cpu")))
    return _draw(seen, picture)


def measure_lengths(num_workers: int) -> Iterator[dict[str, float]]:
    """Restore single files of a minute to ten hours; yield CPU time a second and peak memory."""
    torch.set_num_threads(1)
    restorer = Restorer(StandIn(), RestoreOptions(trust=False))
    block = 0.1 * np.random.default_rng(0).standard_normal((1, 60 * _RATE)).astype(np.float32)
    with Workers(num_workers) as workers:
        meter = _Meter(workers, restorer.model)
        for seconds in (60, 60, 600, 3600, 36000):  # the first one starts what is needed
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "in").mkdir()
                with AudioWriter(folder / "in/long.flac", _RATE, 1, "flac") as writer:
                    for _ in range(seconds // 60):
                        writer.write(block)
                inputs, output = Directory(folder / "in"), folder / "out"
                task = Restore(restorer, inputs, output, FileFormat("flac"), workers=workers)
                before = _memory(workers)
                meter.start()
                with contextlib.redirect_stdout(sys.stderr), _Peak(workers) as peak:
                    run(task, output, World(0, 1, torch.device("cpu")))
                figures = meter.figures(seconds)
            yield {"seconds": seconds, "before_mib": max(before), "most_mib": peak.most, **figures}


class _Peak(contextlib.AbstractContextManager["_Peak"]):
    """The most memory that a process has while the block runs, in MiB."""

    def __init__(self, workers: Workers) -> None:
        self._workers, self.most, self._ended = workers, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            self.most = max(self.most, *_memory(self._workers))


def _memory(workers: Workers) -> list[float]:
    """Return what this process and each worker have of the memory, in MiB."""
    return [resident_bytes(pid) / 2**20 for pid in (os.getpid(), *workers.pids)]


def _draw(seen: list[tuple[int, list[float]]], picture: Path) -> dict[str, float]:
    from matplotlib.figure import Figure

    seen = [moment for moment in seen if len(moment[1]) == len(seen[-1][1])]
    files = np.array([moment[0] for moment in seen])
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    found = {}
    late = files > files[-1] / 4
    for number, memory in enumerate(np.array([moment[1] for moment in seen]).T):
        name = f"worker {number}" if number else "feeder"
        slope = 1000 * np.polyfit(files[late], memory[late], 1)[0]
        axes.plot(files, memory, label=f"{name}: {slope:+.2f} MiB for each 1,000 files")
        found |= {f"{name}_slope": slope, f"{name}_most": float(memory.max())}
    highest = max(max(moment[1]) for moment in seen)
    axes.set(xlabel="files restored", ylabel="resident memory, MiB", ylim=(0, 1.1 * highest))
    axes.legend()
    figure.savefig(picture, dpi=110)
    return found


def make_files(
    folder: Path, format: str, num_files: int, hours: float, shortest: float = 5.0
) -> list[float]:
    """Write voices in noise of up to a minute each; return how many seconds each is, in order."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0, 1, num_files)
    lengths *= (3600 * hours / num_files - shortest) / lengths.mean()
    lengths = (shortest + lengths).clip(max=_LONGEST)
    speech = voice(round(2 * _LONGEST * _RATE), _RATE)
    folder.mkdir()
    for number, length in enumerate(lengths):
        size = round(length * _RATE)
        first = int(rng.integers(len(speech) - size))
        waveform = 0.1 * speech[first : first + size] + 0.003 * rng.standard_normal(size)
        with AudioWriter(folder / f"{number:05d}.{format}", _RATE, 1, format) as writer:
            writer.write(waveform.astype(np.float32)[None])
    return list(map(float, lengths))


def median(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each figure's median."""
    names = figures[0].keys() - {"run"}
    return {name: statistics.median(f[name] for f in figures) for name in sorted(names)}
