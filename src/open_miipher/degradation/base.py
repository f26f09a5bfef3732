"""What every degradation shares: a waveform in, a new one out, and a note of what was drawn."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from open_miipher.base.errors import UserError

NoiseSource = Callable[[np.random.Generator, int], tuple[np.ndarray, str]]
"""Draws so many samples of noise: (samples,) float32 at the context's rate, and whence."""

ResponseSource = Callable[[np.random.Generator], tuple[np.ndarray, str]]
"""Draws an impulse response: (taps,) float32 at the context's rate, and whence."""


@dataclass(frozen=True)
class Context:
    """What the stages are given when they are built.

    Attributes:
        sample_rate: of every waveform, in Hz.
        noise: recorded noise; None lets the noise stage generate its own.
        impulse_responses: recorded or simulated rooms; None lets the reverb stage generate them.
    """

    sample_rate: int
    noise: NoiseSource | None = None
    impulse_responses: ResponseSource | None = None


@dataclass
class Trace:
    """What happened to one sample on its way through the stages.

    Attributes:
        target: what the model shall return, (samples,): the clean waveform, unless a stage was
            told to move it (reverb with `target: direct`).
        drawn: one entry per applied stage, its name and its parameters, fit for JSON.
        failures: stages that failed and left the waveform as it was, with the reason.
    """

    target: np.ndarray
    drawn: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Stage(ABC):
    """One degradation; all that varies comes from the generator it is called with."""

    def __call__(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Damage a waveform.

        Args:
            waveform: (samples,) float32, at least one sample; never changed.
            rng: the only source of randomness.
            trace: takes the note of what was drawn.

        Returns:
            A new array (samples,) float32, aligned with the input.
        """
        damaged = self.apply(waveform, rng, trace)
        if damaged.shape != waveform.shape or damaged.dtype != np.float32:
            raise ValueError(
                f"{type(self).__name__} made {damaged.shape} {damaged.dtype} "
                f"of {waveform.shape} {waveform.dtype}"
            )
        if np.may_share_memory(damaged, waveform):
            raise ValueError(f"{type(self).__name__} returned its input")
        return damaged

    @abstractmethod
    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Do what `__call__` promises; it checks the outcome."""

    def draw(self, rng: np.random.Generator) -> "Stage | None":
        """Return the stage to apply this time, or None for none."""
        return self


def check_range(name: str, values: tuple[float, float], low: float, high: float) -> None:
    """Check a range that a stage draws from.

    Raises:
        UserError: it does not go upwards, or leaves low … high.
    """
    if not low <= values[0] <= values[1] <= high:
        raise UserError(f"{name}={list(values)} must go from low to high within {low} … {high}")


def power(waveform: np.ndarray) -> float:
    """Mean square of a waveform (samples,)."""
    # No dot product: BLAS adds in another order with other threads, and samples must not differ.
    return float(np.square(waveform).mean())
