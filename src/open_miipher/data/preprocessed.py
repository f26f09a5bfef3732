"""Pairs that were made beforehand, read from shards."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from open_miipher.base.errors import UserError, report
from open_miipher.data.batch import PairBatch, PairSample
from open_miipher.data.config import PreprocessedConfig
from open_miipher.data.crops import CropDataset, NumberAt
from open_miipher.data.order import Order
from open_miipher.data.pairs import Pair, Pairs, WrongRateError, check_apart, index_shards
from open_miipher.shards import ShardIndex, Storage, StorageError, expand, is_s3


class PreprocessedDataset(CropDataset[PairSample]):
    """Crops of pairs from shards.

    A position in the endless stream gives an epoch and an index, by the epoch's permutation of all
    pairs. The index gives a shard and a sample in it, which is read with one request. So each rank
    and worker reads only its own samples, an epoch has every pair once, the stream does not depend
    on the number of ranks and workers, and a resumed run continues with the next sample.

    Args:
        pairs: to read from; one that has another sample rate, or whose storage cannot be reached,
            ends the run.
        fingerprint, order, sample_rate, max_broken, number_at: see `CropDataset`.
        crop_seconds: length of a crop; shorter pairs give shorter ones.
        pad: make every batch as long as a crop, even if its samples are shorter.
    """

    fatal = (StorageError, WrongRateError)

    def __init__(
        self,
        pairs: Pairs | list[Pair],
        fingerprint: str,
        order: Order,
        sample_rate: int,
        crop_seconds: float,
        max_broken: float,
        pad: bool,
        number_at: NumberAt | None = None,
    ) -> None:
        num_samples = round(crop_seconds * sample_rate)
        super().__init__(
            len(pairs), fingerprint, order, sample_rate, num_samples, max_broken, number_at
        )
        self._pairs, self._pad = pairs, pad

    @property
    def described(self) -> str:
        """See `Dataset.described`."""
        return f"{self.num_items:,} pairs"

    def collate(self, samples: Sequence[tuple[int, PairSample]]) -> PairBatch:
        """Join samples; see `Dataset.collate`."""
        return PairBatch.join(samples, self.crop_samples if self._pad else None)

    def _make(self, number: int, rng: np.random.Generator) -> PairSample:
        crop = self._pairs[number].draw_crop(rng, self.crop_samples, self.sample_rate)
        clean, damaged, start, name = crop
        return PairSample(clean, damaged, name, start / self.sample_rate, [], [])


class Preprocessed:
    """`data.name=preprocessed`: pairs from shards.

    Args:
        config: all of `data`.
    """

    Config: ClassVar[type] = PreprocessedConfig
    batch_type = PairBatch
    validation_key = "data.val_urls"

    def __init__(self, config: PreprocessedConfig) -> None:
        self.config, self.sample_rate = config, config.sample_rate
        self.crop_seconds = config.crop_seconds
        self._storage = Storage(config.s3)

    def train(self, seed: int) -> PreprocessedDataset:
        """Index the shards, and read the first sample to check that it fits.

        Warns of shards that are left out.

        Args:
            seed: of everything drawn.

        Raises:
            UserError: a key is out of range; a shard is missing or damaged, or also used for
                validation.
            StorageError: the storage cannot be reached.
        """
        shards, _ = self._shards
        pairs = Pairs(self._storage, shards)
        return self._dataset(pairs, pairs, Order(len(pairs), seed), self.config.crop_seconds, True)

    def validation(self, seed: int) -> PreprocessedDataset | None:
        """Return clips spread evenly over the validation shards, like `train`; None without any."""
        _, shards = self._shards
        if not shards:
            return None
        pairs = Pairs(self._storage, shards)
        num_clips = min(self.config.test.num_clips, len(pairs))
        clips = [pairs[k * len(pairs) // num_clips] for k in range(num_clips)]
        order = Order(num_clips, seed, shuffle=False)
        return self._dataset(clips, pairs, order, self.config.test.clip_seconds, False)

    def _dataset(
        self,
        used: Pairs | list[Pair],
        pairs: Pairs,
        order: Order,
        crop_seconds: float,
        pad: bool,
    ) -> PreprocessedDataset:
        limit = self.config.max_broken_samples
        by_length = pairs.number_at if pad and self.config.draw_by == "duration" else None
        dataset = PreprocessedDataset(
            used, pairs.fingerprint, order, self.sample_rate, crop_seconds, limit, pad, by_length
        )
        dataset.sample(0, 0)  # finds a wrong rate or wrong member names before any training
        return dataset

    @cached_property
    def _shards(self) -> tuple[list[ShardIndex], list[ShardIndex]]:
        """The shards for training and those for validation, checked to be different ones."""
        config = self.config
        config.check()
        if not config.train_urls:
            raise UserError("data.train_urls is empty; give it shards of preprocessed pairs")
        train_urls = self._expanded(config.train_urls, "data.train_urls")
        val_urls = self._expanded(config.val_urls, "data.val_urls") if config.val_urls else []
        trained_on = {_resolved(url) for url in train_urls}
        report(
            [
                f"{url} is in data.train_urls and in data.val_urls; take it out of one"
                for url in val_urls
                if _resolved(url) in trained_on
            ]
        )
        limit = config.max_broken_shards
        train = index_shards(train_urls, self._storage, "data.train_urls", limit)
        validation = index_shards(val_urls, self._storage, "data.val_urls", limit)
        check_apart(train, validation, self._storage)
        return train, validation

    def _expanded(self, urls: str | list[str], key: str) -> list[str]:
        listed = [urls] if isinstance(urls, str) else urls
        return expand(listed, self._storage, key, self.config.is_s3)


def _resolved(url: str) -> str:
    return url if is_s3(url) else str(Path(url).resolve())
