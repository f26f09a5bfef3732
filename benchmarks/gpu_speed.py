"""How fast a GPU restores chunks, by how many at once and how long, without reading files."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from check_runner import Outcome
from gpu_chains import Chains, speech_like

MOST_SHOWN = 16
"""Chunks of 20 s that keep a GPU busy: more of them would take the profile's time for nothing."""


def model_alone(chains: Chains, out: Path, family: str, stage: str) -> Iterator[Outcome]:
    """Measure a chain on batches of chunks, with the copies to the GPU and back.

    By batch size for chunks of 20 s, with CUDA graphs and without, until more are slower; and
    by length of the chunks, as long together; `net` is without what chunks share with others.
    OUT_DIR/profile_FAMILY_STAGE.txt says where the time goes.
    """
    from open_miipher.restoration import Chain, RestoreOptions
    from open_miipher.restoration.graphs import Graphs

    cleaner, vocoder = chains.parts(family, stage)
    cleaner.merge()
    chain = Chain(cleaner, vocoder, chains.device, chains.amp)
    usual, sizes = (0.12, (1, 2)) if chains.tiny else (20.0, (1, 4, 16, 64, 128))
    speeds: dict[int, float] = {}
    figures: dict[str, Any] = {"by_batch_size": speeds, "launched": {}, "memory_bytes": {}}
    figures["captured"] = []  # the sizes
    figures |= {"by_chunk_seconds": {}, "net_by_chunk_seconds": {}}
    cuda = chains.device == "cuda"

    def found(size: int, seconds: float, repeats: int, captured: bool = True) -> float:
        # Each with graphs of its own: those of other shapes would keep their memory.
        chain._graphs = Graphs(chain._compute, chain.device) if cuda and captured else None
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return speed(chain, size, seconds, repeats)

    def said() -> Outcome:
        shown = ", ".join(f"{value:.4g} by {size}" for size, value in speeds.items())
        shown = f"times real time: {shown} chunks of {usual:g} s"
        if cuda and not figures["captured"]:
            return False, f"{shown}; no graph was captured", figures
        return True, shown, figures

    for size in sizes:
        try:
            latest = found(size, usual, repeats=3)
            best = max(speeds.values(), default=0.0)
            speeds[size] = latest
            figures["times_real_time"] = max(speeds.values())
            figures["captured"] += [size] if chain._graphs and chain._graphs._replays else []
            yield said()
            figures["launched"][size] = found(size, usual, 2, captured=False)
        except torch.OutOfMemoryError:
            break
        if cuda:
            figures["memory_bytes"][size] = torch.cuda.max_memory_allocated()
        if latest < best:
            break
    size = min(MOST_SHOWN, max(speeds, key=lambda size: speeds[size]))
    chain._graphs = None
    with torch.profiler.profile() as profile:
        speed(chain, size, usual, repeats=1)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=order, row_limit=40)
    (out / f"profile_{family}_{stage}.txt").write_text(table)
    yield said()
    shared = RestoreOptions().overlap_seconds
    for factor in (0.25, 0.5, 1.5):  # as much audio at once
        seconds = factor * usual
        gross = found(max(1, round(size / factor)), seconds, repeats=2)
        figures["by_chunk_seconds"][seconds] = gross
        figures["net_by_chunk_seconds"][seconds] = gross * (1 - min(shared / seconds, 0.5))
        yield said()


def speed(chain: Any, batch_size: int, seconds: float, repeats: int) -> float:
    """Return how many times as fast as real time a chain restores batches, the median."""
    from open_miipher.restoration.graphs import WARM_UP

    frames = round(seconds * chain.input_rate / chain.input_hop)
    waveform = speech_like(frames * chain.input_hop / chain.input_rate, chain.input_rate)[:1]
    waveform = waveform.repeat(batch_size, 1)
    if chain.device.type == "cuda":
        waveform = waveform.pin_memory()  # as restoring does
    lengths = torch.full((batch_size,), waveform.shape[1])
    keys = torch.arange(batch_size)
    taken = []
    for _ in range(WARM_UP + 1 + repeats):
        began = time.perf_counter()
        chain.restore(waveform, lengths, keys, keys)
        taken.append(time.perf_counter() - began)
    return batch_size * seconds / statistics.median(taken[-repeats:])
