"""Lost packets: stretches of zeros."""

from dataclasses import dataclass

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.degradation.base import Context, Stage, Trace, check_range


class PacketLoss(Stage):
    """Sets stretches to zero.

    They begin anywhere (a Poisson process, from before the waveform on), at the rate at which the
    expected lost share is the asked one for a waveform of any length. They may overlap.
    """

    @dataclass
    class Config:
        """What to draw.

        Attributes:
            seconds: length of a stretch.
            share: expected lost share of the waveform.
        """

        seconds: tuple[float, float] = (0.02, 0.5)
        share: float = 0.09

    def __init__(self, context: Context, config: Config) -> None:
        check_range("packet_loss seconds", config.seconds, 0.0001, 60)
        if not 0 < config.share < 1:
            raise UserError(f"packet_loss share={config.share} must lie between 0 and 1")
        self.sample_rate, self.config = context.sample_rate, config

    def apply(self, waveform: np.ndarray, rng: np.random.Generator, trace: Trace) -> np.ndarray:
        """Zero drawn stretches."""
        shortest, longest = (seconds * self.sample_rate for seconds in self.config.seconds)
        # P(a sample is kept) = exp(-rate * mean length) for stretches that begin at `rate`.
        rate = -np.log(1.0 - self.config.share) / (0.5 * (shortest + longest))
        count = rng.poisson(rate * (longest + len(waveform)))
        starts = rng.uniform(-longest, len(waveform), count)
        ends = starts + rng.uniform(shortest, longest, count)
        received = waveform.copy()
        lost = np.zeros(len(waveform), dtype=bool)
        for start, end in zip(np.rint(starts), np.rint(ends), strict=True):
            lost[max(0, int(start)) : max(0, int(end))] = True
        received[lost] = 0.0
        trace.drawn.append({"name": "packet_loss", "share": float(lost.mean())})
        return received
