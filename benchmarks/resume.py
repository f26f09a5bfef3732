"""Measure what the ranks of one machine read of a checkpoint that they resume from.

    python benchmarks/resume.py --ranks 64 --mib 48

Makes a checkpoint with random weights, their average and two moments, takes it out of the page
cache, and forks stand-in ranks that read it as a resumed training does: the first checks all hashes
while the others wait, then each maps the files and copies every tensor. Linux counts what came from
the disk (`read_bytes`) and what system calls copied (`rchar`), for each process.
"""

import argparse
import copy
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.checkpoint import Checkpoint, Content, write_checkpoint

_MIB = 1 << 20


def main() -> None:
    """Make the checkpoint, start the ranks and add up what they read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--mib", type=int, default=48, help="size of the checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        written = make_checkpoint(Path(folder), arguments.mib)
        size = sum(file.stat().st_size for file in written.iterdir())
        for file in written.iterdir():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        context = multiprocessing.get_context("fork")
        verified, begins = context.Event(), context.Barrier(arguments.ranks)
        results = context.Queue()
        ranks = [
            context.Process(target=rank, args=(number, written, verified, begins, results))
            for number in range(arguments.ranks)
        ]
        for process in ranks:
            process.start()
        read = [results.get() for _ in ranks]
        for process in ranks:
            process.join()
    figures = {
        "ranks": arguments.ranks,
        "checkpoint_mib": size / _MIB,
        "from_disk_mib": sum(own["read_bytes"] for own in read) / _MIB,
        "by_system_calls_mib": sum(own["rchar"] for own in read) / _MIB,
        "seconds": max(own["seconds"] for own in read),
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def make_checkpoint(folder: Path, mib: int) -> Path:
    """Write weights, their average and two moments of equal size."""
    count = mib * _MIB // 16  # of float32 numbers in each of the four
    weights, average, *moments = (torch.randn(16, count // 16) for _ in range(4))
    state = {"optimizers": {"a": {"state": {0: dict(zip("mv", moments, strict=True))}}}}
    content = Content({}, {"step": 1}, {"a": {"w": weights}}, {"a": {"w": average}}, state)
    return write_checkpoint(folder, content)


def rank(
    number: int, path: Path, verified: Event, begins: Barrier, results: "multiprocessing.Queue"
) -> None:
    """Read as one rank of a resumed run does."""
    begins.wait()
    before, began = counters(), time.monotonic()
    checkpoint = Checkpoint.open(path)
    if number == 0:
        checkpoint.verify()
        verified.set()
    verified.wait()
    checkpoint = Checkpoint(path, checkpoint.config, checkpoint.state, is_verified=True)
    held = [checkpoint.weights("a")["w"].clone(), checkpoint.weights("a", ema=True)["w"].clone()]
    moments = copy.deepcopy(checkpoint.training_state())
    assert len(held) == 2
    assert "optimizers" in moments
    after = counters()
    own = {name: after[name] - before[name] for name in ("read_bytes", "rchar")}
    results.put({**own, "seconds": time.monotonic() - began})


def counters() -> dict[str, int]:
    """Return what this process has read so far, as the kernel counts it."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


if __name__ == "__main__":
    main()
