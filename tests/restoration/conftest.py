"""Stand-in models: fast, with known answers."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from open_miipher.base.noise import white_noise


class StandIn:
    """Gives the input back, upsampled by repetition where the rates ask for it."""

    needs_statistics = False
    restores_level = True
    side_by_side = False
    is_light = False
    fingerprint = "stand-in"

    def __init__(self, input_rate=8000, input_hop=4, output_rate=8000, output_hop=4) -> None:
        self.input_rate, self.input_hop = input_rate, input_hop
        self.output_rate, self.output_hop = output_rate, output_hop
        self.batches: list[tuple[int, ...]] = []
        self.lengths: list[int] = []

    def restore(
        self,
        waveform: Tensor,
        lengths: Tensor,
        keys: Tensor,
        starts: Tensor,
        statistics: Tensor | None = None,
    ) -> Tensor:
        self.batches.append(tuple(waveform.shape))
        self.lengths += lengths.tolist()
        frames = waveform.shape[1] // self.input_hop
        noise = white_noise(keys, starts, frames * self.output_hop)
        for row, length in zip(waveform, lengths, strict=True):
            assert not row[length:].any()
        return self.answer(waveform, noise)

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        if self.input_hop == self.output_hop:
            return waveform.clone()
        return torch.nn.functional.interpolate(waveform[:, None], noise.shape[1])[:, 0]


class FiniteContext(StandIn):
    """Sees `context` samples on either side, and is not linear."""

    context = 8

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        kernel = torch.hann_window(2 * self.context + 3, periodic=False)[None, None, 1:-1]
        padded = torch.nn.functional.pad(torch.tanh(waveform[:, None]), (self.context,) * 2)
        return torch.nn.functional.conv1d(padded, kernel / kernel.sum())[:, 0]


class QuieterLater(StandIn):
    """Divides the second half of what it is given by 10, and keeps the first."""

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        gains = torch.ones(waveform.shape[1])
        gains[waveform.shape[1] // 2 :] = 0.1
        return waveform * gains


class Noise(StandIn):
    """Gives back the noise that it starts from."""

    restores_level = False

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        return noise.clone()


class Peak(StandIn):
    """Brings everything to a peak of 0.9, as a vocoder without levels does."""

    restores_level = False

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        return 0.9 * waveform / waveform.abs().amax(dim=1, keepdim=True).clamp_min(1e-9)


class Uneven(StandIn):
    """Grows louder by 6 dB over each chunk: two chunks never agree where they overlap."""

    restores_level = False

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        return waveform * torch.logspace(-0.15, 0.15, waveform.shape[1])


class Garbage(StandIn):
    """Makes loud sound out of anything."""

    restores_level = False

    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        return 0.9 * noise / noise.abs().amax(dim=1, keepdim=True)


class Centred(StandIn):
    """Takes the mean off: the whole signal's, or each chunk's own."""

    needs_statistics = True

    def __init__(self, **rates) -> None:
        super().__init__(**rates)
        self.measured: list[Tensor] = []
        self.given: list[bool] = []

    def measure(self, blocks: Iterable[np.ndarray]) -> Tensor:
        whole = torch.from_numpy(np.concatenate(list(blocks), axis=1))
        self.measured.append(whole.mean(dim=1, keepdim=True))
        return self.measured[-1]

    def restore(
        self,
        waveform: Tensor,
        lengths: Tensor,
        keys: Tensor,
        starts: Tensor,
        statistics: Tensor | None = None,
    ) -> Tensor:
        self.given.append(statistics is not None)
        own = waveform.sum(1, keepdim=True) / lengths[:, None]
        mean = own if statistics is None else statistics
        return super().restore(waveform, lengths, keys, starts) - mean


class NotANumber(StandIn):
    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        return torch.full_like(noise, torch.nan)


class OutOfMemory(StandIn):
    def answer(self, waveform: Tensor, noise: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no")


MODELS = {
    "same": StandIn,
    "quieter later": QuieterLater,
    "finite": FiniteContext,
    "noise": Noise,
    "peak": Peak,
    "uneven": Uneven,
    "garbage": Garbage,
    "centred": Centred,
    "nan": NotANumber,
    "oom": OutOfMemory,
}


@pytest.fixture
def stand_in():
    """`stand_in("peak", input_rate=…)` makes a model."""
    return lambda name, **rates: MODELS[name](**rates)
