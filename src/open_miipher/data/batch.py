"""Samples joined into tensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from open_miipher.data.source import Sample


@dataclass
class Batch:
    """Pairs of clean and damaged speech.

    Attributes:
        clean: (batch, samples) float32, zero beyond `lengths`.
        damaged: (batch, samples) float32, aligned with `clean`, zero beyond `lengths`.
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
        """Copy the tensors to a device; from pinned memory without waiting for it."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

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
    shape = (len(samples), num_samples or max(lengths))
    clean, damaged = _handed_over(shape), _handed_over(shape)
    for row, (_, sample) in enumerate(samples):
        for tensor, waveform in ((clean, sample.clean), (damaged, sample.damaged)):
            tensor[row, : lengths[row]] = torch.from_numpy(waveform)
    return Batch(
        clean,
        damaged,
        torch.tensor(lengths),
        torch.tensor([position for position, _ in samples]),
        [sample.name for _, sample in samples],
        [failure for _, sample in samples for failure in sample.failures],
    )


def _handed_over(shape: tuple[int, int]) -> Tensor:
    """Return zeros (float32); a worker's lie where the trainer sees them, which saves a copy."""
    if get_worker_info() is None:
        return torch.from_numpy(np.zeros(shape, np.float32))  # torch.zeros touches every page
    storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))
    return torch.tensor([], dtype=torch.float32).set_(storage, 0, shape)
