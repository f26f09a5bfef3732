"""Restore many signals with one model, in batches; read, restore and write at the same time."""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import numpy as np
import torch

from open_miipher.audio.io import AudioError
from open_miipher.base.errors import UserError
from open_miipher.base.noise import noise_key
from open_miipher.restoration.assembler import Assembler
from open_miipher.restoration.chain import Model
from open_miipher.restoration.job import Chunk, Job

T = TypeVar("T")
Kind = tuple[int, bool]  # of a chunk: output samples, and whether it has its file's statistics

PATIENCE = 4
"""If a chunk's batch is not full after the chunks of this many batches, it is restored as it is."""


def restore_jobs(jobs: Iterable[Job], model: Model, batch_size: int) -> Iterator[Job]:
    """Restore signals, several at once.

    A batch has chunks of any jobs, all with the same number of frames, so nothing is padded and no
    result depends on the rest of the batch. Chunks with and without statistics of their files are
    not mixed. Sort jobs by length: neighbouring jobs of similar length fill batches faster.

    Args:
        jobs: taken one by one, when there is room.
        model: restores a batch.
        batch_size: the most channels of chunks in a batch.

    Yields:
        Each job when it is finished, or has failed (`job.error`: its source cannot be read, or the
        model gave NaN or Inf).

    Raises:
        WriteError: an output cannot be written.
        UserError: the GPU's memory is too small for a batch.
    """
    chunks = in_background(_read(jobs), depth=2 * batch_size)
    restored = in_background(_run(chunks, model, batch_size), depth=2)
    assemblers: dict[Job, Assembler] = {}
    with closing(chunks), closing(restored):
        try:
            for item in restored:
                job = item.job if isinstance(item, Chunk) else item
                if job.finished:
                    continue
                if job not in assemblers:
                    assemblers[job] = Assembler(job)
                _advance(assemblers[job], item)
                if job.finished:
                    del assemblers[job]
                    yield job
        finally:
            for job in assemblers:
                job.sink.abort()


def _advance(assembler: Assembler, item: Chunk | Job) -> None:
    job = assembler.job
    try:
        if isinstance(item, Chunk):
            job.finished = assembler.accept(item)
            return
    except AudioError as error:
        job.error = error
    job.finished = True
    job.sink.abort()


def in_background(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of the caller."""
    end = object()
    thread = ThreadPoolExecutor(max_workers=1)
    try:
        ahead = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)


def _read(jobs: Iterable[Job]) -> Iterator[Chunk | Job]:
    """Yield the jobs' chunks; for a job whose source cannot be read further, the job itself."""
    for job in jobs:
        try:
            for chunk in job.chunks():
                yield chunk
                if job.error is not None:
                    break
        except AudioError as error:
            job.error = error
            yield job


def _run(items: Iterator[Chunk | Job], model: Model, batch_size: int) -> Iterator[Chunk | Job]:
    """Restore the chunks in batches; pass other items through."""
    waiting: dict[Kind, list[Chunk]] = {}  # the kind that has waited longest comes first
    since: dict[Kind, int] = {}
    for position, item in enumerate(items):
        if not isinstance(item, Chunk) or not item.audible:
            yield item
        else:
            kind = item.restored.shape[1], item.statistics is not None
            waiting.setdefault(kind, []).append(item)
            since.setdefault(kind, position)
            if sum(len(chunk.audible) for chunk in waiting[kind]) >= batch_size:
                del since[kind]
                yield from _restore(waiting.pop(kind), model, batch_size)
        oldest = next(iter(waiting), None)
        if oldest is not None and position - since[oldest] >= PATIENCE * batch_size:
            del since[oldest]
            yield from _restore(waiting.pop(oldest), model, batch_size)
    for chunks in waiting.values():
        yield from _restore(chunks, model, batch_size)


def _restore(chunks: list[Chunk], model: Model, batch_size: int) -> list[Chunk]:
    rows = [(chunk, channel) for chunk in chunks for channel in chunk.audible]
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        waveform = torch.from_numpy(np.stack([chunk.waveform[c] for chunk, c in batch]))
        lengths = torch.tensor([chunk.num_samples for chunk, _ in batch])
        keys = torch.cat([noise_key(chunk.job.options.seed) for chunk, _ in batch])
        starts = torch.tensor([chunk.start for chunk, _ in batch])
        given = [chunk.statistics[c] for chunk, c in batch if chunk.statistics is not None]
        statistics = torch.stack(given) if given else None
        began = time.perf_counter()
        try:
            restored = model.restore(waveform, lengths, keys, starts, statistics).numpy()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory is too small for {len(batch)} chunks of "
                f"{waveform.shape[1] / model.input_rate:g} s at once; use a smaller batch size "
                "or shorter chunks"
            ) from error
        share = (time.perf_counter() - began) / len(batch)
        for (chunk, channel), row in zip(batch, restored, strict=True):
            chunk.restored[channel] = row
            chunk.job.seconds["model"] += share
    return chunks
