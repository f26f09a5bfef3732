"""The moving average of a network's trained weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of the trainable parameters.

    Args:
        network: the network whose weights are averaged; its other weights never change.
        decay: at each step; early steps use (1 + step) / (10 + step) if that is less.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int, skip: Tensor | float = 0.0) -> None:
        """Add the weights after `step` optimiser steps to the average.

        Args:
            step: counted from 1.
            skip: 1 to change nothing; it may be on the weights' device, and is not waited for.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.average.values())
        weights = [self.parameters[name] for name in self.average]
        changes = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(changes, (1.0 - skip) * (1.0 - decay))
        torch._foreach_add_(averages, changes)

    def over(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's `weights`, with the average in place of each averaged one."""
        # Matched by memory address, not by name: of two names of one tensor, only one is averaged.
        averages = {_place(p): self.average[name] for name, p in self.parameters.items()}
        return {name: averages.get(_place(w), w) for name, w in weights.items()}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged weights inside the `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            weights = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(weights)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the average from a checkpoint's weights, which have the network's names."""
        for name, average in self.average.items():
            average.copy_(weights[name])


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape
