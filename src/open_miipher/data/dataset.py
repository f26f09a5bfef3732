"""Pairs of clean and damaged crops; each depends only on seed, epoch and index."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from open_miipher.data.batch import PairBatch, PairSample
from open_miipher.data.config import AugmentConfig, CropConfig
from open_miipher.data.files import File, Files, described
from open_miipher.data.order import Order
from open_miipher.data.source import (
    FailureLimit,
    NumberAt,
    broken_limit,
    item_of,
    readable_sample,
)
from open_miipher.degradation import Stage, Trace
from open_miipher.degradation.base import power


class DegradedSpeechDataset:
    """Crops of speech, clean and damaged by the degradations.

    A sample whose files cannot be read, or hold NaN, is reported and replaced by a random one,
    drawn from the same seed, epoch and index.

    Args:
        files: clean speech.
        fingerprint: of the indexes that the files come from.
        order: of the files in the endless stream; its seed (0 or more) also seeds every sample.
        sample_rate: of the crops, in Hz.
        crop_seconds: length of a crop; shorter files give shorter ones.
        crop: how a crop is chosen.
        augment: how clean crops are changed; None: not at all.
        degradation: damages the crops.
        max_failures: failed degradations per sample above which the loader stops the run.
        max_broken: share of unreadable samples above which it does.
        pad: make every batch as long as a crop, even if its samples are shorter.
        number_at: of the files, to draw them by their length; None: each once an epoch.
    """

    def __init__(
        self,
        files: Files | list[File],
        fingerprint: str,
        order: Order,
        sample_rate: int,
        crop_seconds: float,
        crop: CropConfig,
        augment: AugmentConfig | None,
        degradation: Stage,
        max_failures: float,
        max_broken: float,
        pad: bool,
        number_at: NumberAt | None = None,
    ) -> None:
        self._number_at = number_at
        self._files, self.fingerprint, self.order = files, fingerprint, order
        self.sample_rate, self.crop_samples = sample_rate, round(crop_seconds * sample_rate)
        self._crop, self._augment, self._degradation = crop, augment, degradation
        self._pad = pad
        self.failure_limits: Sequence[FailureLimit] = (
            FailureLimit(max_failures, "data.max_degradation_failures", "degradations failed"),
            broken_limit(max_broken),
        )

    @property
    def num_items(self) -> int:
        """Samples per epoch."""
        return len(self._files)

    @property
    def described(self) -> str:
        """See `Dataset.described`."""
        return described(self._files)

    def __getitem__(self, position: int) -> PairSample:
        """Make the sample at a position of the endless stream."""
        return self.sample(*self.order.at(position))

    def collate(self, samples: Sequence[tuple[int, PairSample]]) -> PairBatch:
        """Join samples; see `Dataset.collate`."""
        return PairBatch.join(samples, self.crop_samples if self._pad else None)

    def sample(self, epoch: int, index: int) -> PairSample:
        """Make one sample; it depends only on the order's seed, the epoch and the index.

        Args:
            epoch: counted from 0.
            index: of the place in the epoch, 0 … num_items - 1: without `number_at`, the file.

        Raises:
            UserError: too many files in a row cannot be read.
        """
        rng = np.random.default_rng((self.order.seed, epoch, index))
        first = item_of(index, self.num_items, rng, self._number_at)
        sample, broken = readable_sample(
            lambda number: self._make(self._files[number], rng), first, self.num_items, rng
        )
        name = f"{sample.name} epoch {epoch} index {index}"
        return replace(sample, name=name, broken=broken)

    def _make(self, file: File, rng: np.random.Generator) -> PairSample:
        clean, start = draw_crop(file, rng, self.crop_samples, self.sample_rate, self._crop)
        if self._augment is not None:
            clean = augmented(clean, self.crop_samples, self.sample_rate, self._augment, rng)
        trace = Trace(target=clean)
        damaged = self._degradation(clean, rng, trace)
        return PairSample(
            trace.target,
            damaged,
            file.name,
            start / self.sample_rate,
            trace.drawn,
            trace.failures,
        )


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


def augmented(
    crop: np.ndarray,
    crop_samples: int,
    sample_rate: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Change a clean crop at random without damaging it: shift, polarity and gain.

    Args:
        crop: (samples,) float32, at most `crop_samples`.
        crop_samples: the greatest length of the result.
        sample_rate: in Hz.
        config: ranges to draw from.
        rng: source of randomness.

    Returns:
        A new array (samples + shift,) float32, with `shift` zeros before the crop.
    """
    most = min(round(config.shift_seconds * sample_rate), crop_samples - len(crop))
    shift = int(rng.integers(most + 1))
    sign = -1.0 if rng.random() < config.polarity_probability else 1.0
    gain = sign * 10.0 ** (rng.uniform(*config.volume_db) / 20.0)
    return np.pad(crop * np.float32(gain), (shift, 0))
