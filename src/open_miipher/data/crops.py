"""Crops of items at the positions of an endless stream, which item each is of, and which part."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.data.batch import AudioSample, PairSample
from open_miipher.data.config import CropConfig
from open_miipher.data.files import File
from open_miipher.data.order import Order
from open_miipher.data.source import FailureLimit, broken_limit
from open_miipher.degradation.base import power

NumberAt = Callable[[float], int]
"""Gives the item that lies at a share of the length of all items, from 0 to 1, end to end."""

_MAX_TRIES = 8  # items in a row that cannot be read; more are not a coincidence

Sample = TypeVar("Sample", PairSample, AudioSample)


class CropDataset(ABC, Generic[Sample]):
    """A `Dataset` of crops; each depends only on seed, epoch and index.

    An item that cannot be read, or holds NaN, is reported and replaced by a random one, drawn from
    the same seed, epoch and index, which then occurs twice in the epoch. If that cannot be read
    either, another one is drawn.

    Args:
        num_items: how many there are to crop; samples per epoch.
        fingerprint: of where the items come from.
        order: of the items in the endless stream; its seed (0 or more) also seeds every sample.
        sample_rate: of the crops, in Hz.
        crop_samples: length of a crop.
        max_broken: share of unreadable samples above which the loader stops the run.
        number_at: of the items, to draw them by their length; None: each once an epoch.
    """

    fatal: tuple[type[UserError], ...] = ()
    """Errors of an item in whose place no other is taken."""

    def __init__(
        self,
        num_items: int,
        fingerprint: str,
        order: Order,
        sample_rate: int,
        crop_samples: int,
        max_broken: float,
        number_at: NumberAt | None = None,
    ) -> None:
        self.num_items, self.fingerprint, self.order = num_items, fingerprint, order
        self.sample_rate, self.crop_samples = sample_rate, crop_samples
        self._number_at = number_at
        self.failure_limits: Sequence[FailureLimit] = (broken_limit(max_broken),)

    def __getitem__(self, position: int) -> Sample:
        """Make the sample at a position of the endless stream."""
        return self.sample(*self.order.at(position))

    def sample(self, epoch: int, index: int) -> Sample:
        """Make one sample; it depends only on the order's seed, the epoch and the index.

        Args:
            epoch: counted from 0.
            index: of the place in the epoch, 0 … num_items - 1: without `number_at`, the item.

        Raises:
            UserError: a fatal one, or too many items in a row cannot be read.
        """
        rng = np.random.default_rng((self.order.seed, epoch, index))
        number, broken = index, list[str]()
        if self._number_at is not None:
            # Each place has an equal part of the whole to draw from: in every epoch an item comes
            # as often as its length asks, but for one time more or less.
            number = self._number_at((index + rng.random()) / self.num_items)
        while len(broken) < _MAX_TRIES:
            try:
                sample = self._make(number, rng)
                name = f"{sample.name} epoch {epoch} index {index}"
                return replace(sample, name=name, broken=broken)
            except self.fatal:
                raise
            except UserError as error:
                broken.append(str(error))
                number = int(rng.integers(self.num_items))
        raise UserError(f"{len(broken)} samples in a row cannot be read; the last: {broken[-1]}")

    @abstractmethod
    def _make(self, number: int, rng: np.random.Generator) -> Sample:
        """Make the sample of an item, counted from 0, under the item's name.

        Raises:
            UserError: the item cannot be read.
        """


def draw_crop(
    file: File,
    rng: np.random.Generator,
    crop_samples: int,
    sample_rate: int,
    config: CropConfig,
    step: int = 1,
) -> tuple[np.ndarray, int]:
    """Draw a channel and a crop of a file that is loud enough, or else the loudest one.

    Args:
        file: what is cropped; a shorter one is returned whole.
        rng: source of randomness.
        crop_samples: length of the crop.
        sample_rate: of the crop, in Hz.
        config: how many are drawn, and what is loud enough.
        step: the crop begins at a multiple of it, in samples.

    Returns:
        (samples,) float32 and its first sample.

    Raises:
        UserError: the file cannot be read.
    """
    channel = file.draw_channel(rng)
    spare = file.num_samples(sample_rate) - crop_samples
    if spare <= 0:
        return file.read(channel, 0, crop_samples + spare, sample_rate), 0
    lowest_power = 10.0 ** (config.min_level_db / 10.0)
    loudest, best, best_start = -1.0, np.empty(0, np.float32), 0
    for _ in range(config.num_candidates):
        start = int(rng.integers(spare // step + 1)) * step
        crop = file.read(channel, start, crop_samples, sample_rate)
        crop_power = power(crop)
        if crop_power > loudest:
            loudest, best, best_start = crop_power, crop, start
        if loudest >= lowest_power:
            break
    return best, best_start
