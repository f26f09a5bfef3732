"""How a device restores fastest: the precision that suits it, and a short trial of batch sizes."""

import time
from dataclasses import dataclass
from typing import Literal

import torch

from open_miipher.audio.chunking import ChunkGrid
from open_miipher.audio.level import SPEECH_RMS
from open_miipher.base.errors import UserError
from open_miipher.restoration.chain import Model

CPU_BATCH = 1
"""Chunks in a batch on a CPU, where more of them bring nothing but memory; see
`Model.side_by_side`."""

LARGEST_BATCH = 256
WORTH_IT = 1.05
"""A batch twice as large must be so many times as fast, or it is not worth its memory."""

MOST_MEMORY = 0.5
"""Share of a GPU's memory that a batch may take: CUDA graphs keep what theirs have taken, and
batches of other shapes need as much beside them."""


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        batch_size: chunks at once.
        chunk_seconds: length of a chunk.
        speed: seconds of audio restored in a second.
    """

    batch_size: int
    chunk_seconds: float
    speed: float

    def __str__(self) -> str:
        return (
            f"batches of {self.batch_size} chunks of {self.chunk_seconds:g} s, "
            f"{self.speed:.3g} times real time in a trial"
        )


def suited_amp(device: torch.device) -> Literal["bf16", "no"]:
    """Return bf16 for GPUs that compute in it, and no for others and for CPUs."""
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "no"


def try_batches(model: Model, grid: ChunkGrid, largest: int = LARGEST_BATCH) -> Trial:
    """Double the batch of whole chunks until it fills its memory or it gets hardly faster.

    Args:
        model: restores noise at the level of speech.
        grid: has the length of a chunk.
        largest: size to try.

    Raises:
        UserError: one chunk is too much for the memory.
    """
    num_samples = grid.chunk_frames * model.input_hop
    seconds = num_samples / model.input_rate
    best: Trial | None = None
    size = 1
    while size <= largest:
        try:
            _restore_noise(model, size, num_samples)  # kernels are chosen, memory is fetched
            began = time.perf_counter()
            _restore_noise(model, size, num_samples)
        except torch.OutOfMemoryError:
            break
        found = Trial(size, seconds, size * seconds / (time.perf_counter() - began))
        if best is not None and found.speed < WORTH_IT * best.speed:
            break
        best = found
        if 2 * _share_taken() > MOST_MEMORY:
            break
        size *= 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the largest trial took
    if best is None:
        raise UserError(
            f"the GPU's memory is too small for a chunk of {seconds:g} s; use shorter chunks"
        )
    return best


def _share_taken() -> float:
    """Return the largest share of the GPU's memory that was in use; 0 where none is used."""
    if not torch.cuda.is_initialized():
        return 0.0
    total = torch.cuda.mem_get_info()[1] * torch.cuda.get_per_process_memory_fraction()
    return torch.cuda.max_memory_allocated() / total


def _restore_noise(model: Model, size: int, num_samples: int) -> None:
    """Restore chunks of which the first is shorter: masks take time and memory, too."""
    waveform = SPEECH_RMS * torch.randn(1, num_samples).repeat(size, 1)
    waveform[0, num_samples // 2 :] = 0.0
    zeros = torch.zeros(size, dtype=torch.int64)
    lengths = torch.full_like(zeros, num_samples)
    if size > 1:
        lengths[0] = num_samples // 2
    model.restore(waveform, lengths, zeros, zeros)
