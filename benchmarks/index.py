"""How fast a large index loads, and what memory all processes of a machine need for it together.

    python benchmarks/index.py --rows 18000000 --ranks 4 --workers 4
    python benchmarks/index.py --files 2000

A metadata.csv of so many rows, without audio, is made in a temporary folder (64 bytes a row, and as
much again for what is made of it). Then: it is loaded with the cache switched off, loaded for the
first time, and again. At last ranks, started separately, load it, and each forks workers, as the
trainer does with its loader's; each worker asks for random entries. The same processes with an
index of one row show what they take without. The memory of a process is its proportional share (Pss
of /proc/PID/smaps_rollup: a page that two processes map counts half for each); what grows in a
worker while it reads is its unshared memory (Private_*).

With --files, so many files of 5 s are made of each kind instead, in folders of 100, and an index of
them is made in this process (which looks at every file's header and end) and verified (headers),
both with the files in memory: median of three, files a second of CPU time.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import soundfile

from open_miipher.index import (
    Index,
    cache,
    read_index,
    scan,
    verify_index,
    write_index,
)

_GIB = 2**30


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4, help="of each rank")
    parser.add_argument(
        "--samples", type=int, default=10_000, help="entries that each worker reads"
    )
    parser.add_argument("--files", type=int, help="look at so many files of each kind instead")
    arguments = parser.parse_args()
    if arguments.files:
        _look_at_files(arguments.files)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "many")
        os.environ["XDG_CACHE_HOME"] = folder
        size = _make(root, arguments.rows)
        print(f"{arguments.rows:,} rows, {size / _GIB:.2f} GiB of CSV")
        with mock.patch.object(cache, "_SMALL_BYTES", size + 1):
            _in_child("without the cache", root)
        _in_child("first load, which writes the cache", root)
        _in_child("from the cache", root)
        cached = sum(path.stat().st_size for path in cache.cache_folder().glob("*"))
        print(f"the cache takes {cached / _GIB:.2f} GiB")
        _make(root.with_name("one"), 1)
        for of in (root.with_name("one"), root):
            _share(of, arguments.ranks, arguments.workers, arguments.samples)


def _look_at_files(num_files: int) -> None:
    noise = (0.05 * np.random.default_rng(0).standard_normal(5 * 24000)).astype(np.float32)
    print("| 5 s, 24 kHz | made, files a CPU second | verified |\n|---|---|---|")
    for kind in ("flac", "wav", "ogg"):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, f"a.{kind}")
            soundfile.write(source, noise, 24000)
            for number in range(1, num_files):
                copy = Path(folder, f"{number // 100:04d}", f"{number:06d}.{kind}")
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, copy)
            write_index(folder, scan(folder).entries)
            index = read_index(folder)
            made = _speed(num_files, lambda folder=folder: scan(folder))
            verified = _speed(num_files, lambda index=index: verify_index(index))
            print(f"| {kind} | {made:,.0f} | {verified:,.0f} |", flush=True)


def _speed(num_files: int, action: Callable[[], object]) -> float:
    taken = []
    for _ in range(3):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return num_files / statistics.median(taken)


def _make(root: Path, num_rows: int) -> int:
    root.mkdir()
    with open(root / "metadata.csv", "w") as file:
        file.write("file_path,sample_rate,num_frames,num_channels\n")
        for k in range(num_rows):
            folder = f"speaker{k // 1000:06d}/chapter{k // 50 % 100:03d}"
            file.write(f"{folder}/utterance-{k:08d}.flac,24000,{100_000 + k * 7919 % 500_000},1\n")
    return (root / "metadata.csv").stat().st_size


def _in_child(what: str, root: Path) -> None:
    """Load in a process of its own, so that its memory is its own."""
    process = multiprocessing.get_context("fork").Process(target=_load, args=(what, root))
    process.start()
    process.join()


def _load(what: str, root: Path) -> None:
    before, cpu, wall = _memory("Pss"), time.process_time(), time.monotonic()
    index = read_index(root)  # held until its memory is read
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    grown, peak = _memory("Pss") - before, _peak()
    assert len(index)
    print(
        f"{what}: {wall:.1f} s, {cpu:.1f} s of them on the CPU; "
        f"{grown / _GIB:.2f} GiB after it, {peak / _GIB:.2f} GiB at the most"
    )


def _share(root: Path, num_ranks: int, num_workers: int, num_samples: int) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(num_ranks * (1 + num_workers))
    results = context.Queue()
    arguments = (root, num_workers, num_samples, ready, results)
    ranks = [context.Process(target=_rank, args=arguments) for _ in range(num_ranks)]
    _each(ranks, "start")
    found = [results.get() for _ in range(num_ranks * (1 + num_workers))]
    _each(ranks, "join")
    grown = [unshared for unshared, _ in found if unshared is not None]
    together = sum(share for _, share in found)
    print(
        f"{root.name}: {num_ranks} ranks of {num_workers} workers take {together / _GIB:.2f} GiB "
        "together"
    )
    if grown:
        print(
            f"  {statistics.mean(grown) / 1024:.0f} KiB unshared in a worker after {num_samples} "
            f"entries, {max(grown) / 1024:.0f} at the most"
        )


def _rank(root: Path, num_workers: int, num_samples: int, ready: Barrier, results: Any) -> None:
    index = read_index(root)
    arguments = (index, num_samples, ready, results)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_worker, args=(k, *arguments)) for k in range(num_workers)]
    _each(workers, "start")
    results.put((None, _share_of(ready)))
    _each(workers, "join")


def _worker(seed: int, index: Index, num_samples: int, ready: Barrier, results: Any) -> None:
    rng = random.Random(seed)
    index[rng.randrange(len(index))]
    before = _memory("Private_Clean") + _memory("Private_Dirty")
    for _ in range(num_samples):
        index[rng.randrange(len(index))]
    grown = _memory("Private_Clean") + _memory("Private_Dirty") - before
    results.put((grown, _share_of(ready)))


def _share_of(ready: Barrier) -> int:
    """Return this process's share while all others are there."""
    ready.wait()
    share = _memory("Pss")
    ready.wait()
    return share


def _each(processes: list[Any], what: str) -> None:
    for process in processes:
        call: Callable[[], None] = getattr(process, what)
        call()


def _memory(name: str) -> int:
    """Return a line of this process's smaps_rollup in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _peak() -> int:
    """Return the most that this process had in memory, mapped pages included."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
