"""Pairs of clean and damaged crops; each depends only on seed, epoch and index."""

from collections.abc import Sequence

import numpy as np

from open_miipher.data.batch import PairBatch, PairSample
from open_miipher.data.config import AugmentConfig, CropConfig
from open_miipher.data.crops import CropDataset, NumberAt, draw_crop
from open_miipher.data.files import File, Files, described
from open_miipher.data.order import Order
from open_miipher.data.source import FailureLimit
from open_miipher.degradation import Stage, Trace


class DegradedSpeechDataset(CropDataset[PairSample]):
    """Crops of speech, clean and damaged by the degradations.

    Args:
        files: clean speech.
        fingerprint, order, sample_rate, max_broken, number_at: see `CropDataset`.
        crop_seconds: length of a crop; shorter files give shorter ones.
        crop: how a crop is chosen.
        augment: how clean crops are changed; None: not at all.
        degradation: damages the crops.
        max_failures: failed degradations per sample above which the loader stops the run.
        pad: make every batch as long as a crop, even if its samples are shorter.
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
        num_samples = round(crop_seconds * sample_rate)
        super().__init__(
            len(files), fingerprint, order, sample_rate, num_samples, max_broken, number_at
        )
        self._files = files
        self._crop, self._augment, self._degradation = crop, augment, degradation
        self._pad = pad
        self.failure_limits = (
            FailureLimit(max_failures, "data.max_degradation_failures", "degradations failed"),
            *self.failure_limits,
        )

    @property
    def described(self) -> str:
        """See `Dataset.described`."""
        return described(self._files)

    def collate(self, samples: Sequence[tuple[int, PairSample]]) -> PairBatch:
        """Join samples; see `Dataset.collate`."""
        return PairBatch.join(samples, self.crop_samples if self._pad else None)

    def _make(self, number: int, rng: np.random.Generator) -> PairSample:
        file = self._files[number]
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
