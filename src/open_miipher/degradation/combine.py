"""Stages made of stages: one after the other, now and then, one of several."""

from collections.abc import Sequence

import numpy as np

from open_miipher.degradation.base import Stage, Trace


class Maybe(Stage):
    """Applies a stage with a probability.

    Args:
        stage: what to apply.
        probability: 0 … 1.
    """

    def __init__(self, stage: Stage, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability of {probability}")
        self.stage, self.probability = stage, probability

    def draw(self, rng: np.random.Generator) -> Stage | None:
        """Return the stage with its probability, else None."""
        return self.stage.draw(rng) if rng.random() < self.probability else None

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Apply the stage or return a copy."""
        stage = self.draw(rng)
        return waveform.copy() if stage is None else stage(waveform, rng, trace)


class Choice(Stage):
    """Applies exactly one of several stages, each as likely as its weight says.

    Args:
        stages: at least one.
        weights: one number each, not all of them 0; all alike if None.
    """

    def __init__(self, stages: Sequence[Stage], weights: Sequence[float] | None = None) -> None:
        self.stages = list(stages)
        shares = np.ones(len(self.stages)) if weights is None else np.asarray(weights, np.float64)
        if (
            not self.stages
            or shares.shape != (len(self.stages),)
            or (shares < 0).any()
            or not shares.any()
        ):
            raise ValueError(f"{len(self.stages)} stages with the weights {weights}")
        self.shares = shares / shares.sum()

    def draw(self, rng: np.random.Generator) -> Stage | None:
        """Return one of the stages."""
        return self.stages[rng.choice(len(self.stages), p=self.shares)].draw(rng)

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Apply one of the stages."""
        stage = self.draw(rng)
        return waveform.copy() if stage is None else stage(waveform, rng, trace)


class Chain(Stage):
    """Applies stages in order, at most so many of them.

    First every stage draws whether it takes part; of more than `max_stages`, as many as are too
    many are left out, all alike.

    Args:
        stages: in the order of application.
        max_stages: how many take part at most; None for all.
    """

    def __init__(self, stages: Sequence[Stage], max_stages: int | None = None) -> None:
        self.stages = list(stages)
        self.max_stages = len(self.stages) if max_stages is None else max_stages

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Apply the drawn stages."""
        damaged = waveform
        for stage in self._drawn(rng):
            damaged = stage(damaged, rng, trace)
        return waveform.copy() if damaged is waveform else damaged

    def _drawn(self, rng: np.random.Generator) -> list[Stage]:
        drawn = [stage for stage in (s.draw(rng) for s in self.stages) if stage is not None]
        if len(drawn) <= self.max_stages:
            return drawn
        kept = rng.choice(len(drawn), self.max_stages, replace=False)
        return [drawn[k] for k in sorted(kept)]
