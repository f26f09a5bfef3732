"""Samples joined into tensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from open_miipher.data.source import Sample
from open_miipher.shards import FULL_SCALE


@dataclass
class Batch:
    """Pairs of clean and damaged speech.

    Attributes:
        clean: (batch, samples), zero beyond `lengths`; float32, or int16 until `to`.
        damaged: as `clean`, and aligned with it.
        lengths: (batch,) int64, true samples.
        positions: (batch,) int64, places in the endless stream; they seed noise drawn in a step.
        names: file, epoch and index of each, for messages.
        failures: what went wrong in making the samples, with the reason.
    """

    clean: Tensor
    damaged: Tensor
    lengths: Tensor
    positions: Tensor
    names: list[str]
    failures: list[str]

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the tensors to a device, waveforms as float32; from pinned memory without waiting.

        Integers on the way are half of what processes and buses hand over.
        """
        return self._map(lambda tensor: _as_float(tensor.to(device, non_blocking=True)))

    def pin_memory(self) -> "Batch":
        """Move the tensors to page-locked memory; torch's loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            move(self.clean),
            move(self.damaged),
            move(self.lengths),
            move(self.positions),
            self.names,
            self.failures,
        )


def join(samples: Sequence[tuple[int, Sample]], num_samples: int | None) -> Batch:
    """Join samples into a batch, with zeros behind the shorter ones.

    Args:
        samples: position and sample of each.
        num_samples: width of the batch; that of the longest sample if None.
    """
    lengths = [len(sample.clean) for _, sample in samples]
    num_samples = num_samples or max(lengths)
    return Batch(
        _stack([sample.clean for _, sample in samples], num_samples),
        _stack([sample.damaged for _, sample in samples], num_samples),
        torch.tensor(lengths),
        torch.tensor([position for position, _ in samples]),
        [sample.name for _, sample in samples],
        [failure for _, sample in samples for failure in sample.failures],
    )


def _stack(waveforms: Sequence[np.ndarray], num_samples: int) -> Tensor:
    """Join waveforms to (batch, num_samples): int16 if all are, else float32."""
    are_integers = all(waveform.dtype == np.int16 for waveform in waveforms)
    dtype = torch.int16 if are_integers else torch.float32
    stacked = _zeros((len(waveforms), num_samples), dtype)
    for row, waveform in zip(stacked.numpy(), waveforms, strict=True):
        scale = 1 if waveform.dtype == row.dtype else np.float32(1 / FULL_SCALE)
        np.multiply(waveform, scale, out=row[: len(waveform)])
    return stacked


def _zeros(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return zeros; a worker's lie where the trainer reads them, which saves a copy."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.tensor([], dtype=dtype).set_(storage, 0, shape)


def _as_float(tensor: Tensor) -> Tensor:
    """Bring waveforms of 16 bits to full scale 1; leave all else."""
    return tensor / FULL_SCALE if tensor.dtype == torch.int16 else tensor
