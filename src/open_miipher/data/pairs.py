"""The pairs of several shards as one sequence, and the indexing of the shards."""

import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import accumulate

import numpy as np

from open_miipher.audio.io import AudioError
from open_miipher.base.errors import UserError, notice, report
from open_miipher.distributed import is_first_here
from open_miipher.shards import (
    CLEAN_MEMBER,
    DAMAGED_MEMBER,
    RATE_MEMBER,
    ShardError,
    ShardIndex,
    Storage,
    StorageError,
    decode_samples,
    measure_waveform,
    read_index,
    read_rate,
)

_THREADS = 16  # that index shards; they mostly wait for storage
_SECONDS_BETWEEN_LINES = 10.0
_COMPARED_BYTES = 1 << 18


@dataclass(frozen=True)
class Pair:
    """One pair.

    Attributes:
        storage: where the shard is.
        shard: the index of its samples.
        number: of the sample in the shard.
    """

    storage: Storage
    shard: ShardIndex
    number: int

    def draw_crop(
        self, rng: np.random.Generator, crop_samples: int, sample_rate: int
    ) -> tuple[np.ndarray, np.ndarray, int, str]:
        """Read the pair, and draw one channel and crop for both sides.

        Args:
            rng: source of randomness.
            crop_samples: length of the crop; a shorter pair is used whole.
            sample_rate: that the pair must have, in Hz.

        Returns:
            Clean and damaged, (samples,) float32 or int16; the crop's first sample; shard and key.

        Raises:
            ShardError, UserError: the sample is damaged, or its shard does not exist any more.
            WrongRateError: the pair has another sample rate.
            StorageError: the storage cannot be reached.
        """
        sample = self.shard.read(self.storage, self.number)
        name = f"{self.shard.url} {sample.key}"
        try:
            names = [_member(sample.members, stem) for stem in (CLEAN_MEMBER, DAMAGED_MEMBER)]
            infos = [measure_waveform(sample.members[n], n) for n in names]
            rates = {read_rate(sample.members), *(i.sample_rate for i in infos if i.sample_rate)}
            shapes = {(i.num_channels, i.num_samples) for i in infos}
            if len(shapes) > 1 or len(rates) > 1:
                raise ShardError("the two sides of the pair differ in length, channels or rate")
            if rates != {sample_rate}:
                raise WrongRateError(
                    f"its sample rate is {rates.pop()} Hz, but data.sample_rate={sample_rate}; "
                    "set data.sample_rate to the rate of the shards, or use other shards"
                )
            num_channels, num_samples = shapes.pop()
            channel = int(rng.integers(num_channels)) if num_channels > 1 else 0
            start = int(rng.integers(max(0, num_samples - crop_samples) + 1))
            clean, damaged = (
                decode_samples(sample.members[n], n, start, crop_samples)[0][channel] for n in names
            )
        except (ShardError, AudioError, WrongRateError) as error:
            raise type(error)(f"{name}: {error}") from error
        return clean, damaged, start, name


class WrongRateError(UserError):
    """A sample's rate is not the configured one: ends the run, unlike a damaged sample."""


class Pairs:
    """The pairs of several shards, one shard after the other.

    Only the offsets of the samples in the shards are in memory: 8 bytes per sample.

    Args:
        storage: where the shards are.
        shards: the indexes of their samples.
    """

    def __init__(self, storage: Storage, shards: Sequence[ShardIndex]) -> None:
        self._storage, self._shards = storage, shards
        self._ends = list(accumulate(len(shard) for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Pair:
        place = bisect_right(self._ends, number)
        shard = self._shards[place]
        return Pair(self._storage, shard, number - self._ends[place] + len(shard))

    def number_at(self, share: float) -> int:
        """Return the pair at a share of all bytes, from 0 to 1; bytes stand for seconds.

        How long a pair is stands in it alone.
        """
        ends = self._ends_in_bytes
        place = share * ends[-1]
        shard = min(bisect_right(ends, place), len(ends) - 1)
        bounds = self._shards[shard].bounds
        within = bounds[0] + place - (ends[shard] - (bounds[-1] - bounds[0]))
        number = int(np.searchsorted(bounds, within, side="right")) - 1
        return self._ends[shard] - len(self._shards[shard]) + min(number, len(bounds) - 2)

    @cached_property
    def _ends_in_bytes(self) -> list[int]:
        return list(accumulate(int(shard.bounds[-1] - shard.bounds[0]) for shard in self._shards))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the shards' file names and sample offsets; their folder does not count."""
        digest = sha256()
        for shard in self._shards:
            digest.update(shard.url.rpartition("/")[2].encode() + b"\0" + shard.bounds.tobytes())
        return digest.hexdigest()


def index_shards(
    urls: Sequence[str], storage: Storage, key: str, max_broken: int
) -> list[ShardIndex]:
    """Find the samples of shards, several shards at a time; prints progress now and then.

    Args:
        urls: of the shards.
        storage: where they are.
        key: the configuration key of the shards, for messages.
        max_broken: number of shards that may be missing, empty or damaged; each is left out with a
            warning.

    Raises:
        UserError: more shards are broken, or all are.
        StorageError: the storage cannot be reached.
    """
    found, broken = [], []
    executor = ThreadPoolExecutor(_THREADS)
    try:
        for result in _with_lines(executor.map(partial(_index, storage), urls), len(urls)):
            if isinstance(result, ShardIndex):
                found.append(result)
            else:
                broken.append(result)
    finally:
        executor.shutdown(cancel_futures=True)
    if len(broken) > max_broken or (broken and not found):
        report(
            [
                f"{error}; repair or remove it ({len(broken)} of {len(urls)} shards of {key} are "
                f"broken; data.max_broken_shards allows {max_broken})"
                for error in broken
            ]
        )
    for error in broken:
        notice(f"{error}; this shard of {key} is left out")
    return found


def check_apart(
    train: Sequence[ShardIndex], validation: Sequence[ShardIndex], storage: Storage
) -> None:
    """Check that no validation shard is a copy of a training shard.

    Shards whose samples have the same offsets are compared by 256 KiB from their middle.

    Raises:
        UserError: there are copies; the message names each.
    """
    by_places: dict[bytes, list[ShardIndex]] = {}
    for shard in train:
        by_places.setdefault(_places(shard), []).append(shard)
    likely = [(own, other) for own in validation for other in by_places.get(_places(own), [])]
    middles = {shard.url: shard for pair in likely for shard in pair}
    with ThreadPoolExecutor(_THREADS) as executor:
        contents = executor.map(partial(_middle, storage), middles.values())
        read = dict(zip(middles, contents, strict=True))
    report(
        [
            f"{own.url} of data.val_urls is a copy of {other.url}, which data.train_urls gives; "
            "remove one"
            for own, other in likely
            if read[own.url] == read[other.url]
        ]
    )


def _index(storage: Storage, url: str) -> ShardIndex | UserError:
    try:
        return read_index(storage, url)
    except StorageError:
        raise
    except UserError as error:
        return error


def _with_lines(
    results: Iterator[ShardIndex | UserError], total: int
) -> Iterator[ShardIndex | UserError]:
    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
    for done, result in enumerate(results, start=1):
        yield result
        if time.monotonic() >= next_line and is_first_here():
            print(f"found the samples of {done} of {total} shards", flush=True)
            next_line = time.monotonic() + _SECONDS_BETWEEN_LINES


def _places(shard: ShardIndex) -> bytes:
    return sha256(shard.bounds.tobytes()).digest()


def _middle(storage: Storage, shard: ShardIndex) -> bytes:
    end = int(shard.bounds[-1])
    start = end // 2
    return storage.read(shard.url, start, min(end, start + _COMPARED_BYTES))


def _member(members: Mapping[str, bytes], stem: str) -> str:
    """Return the name of the one member that has this stem."""
    names = [name for name in members if name.rpartition(".")[0] == stem]
    if len(names) != 1:
        raise ShardError(
            f"it has {len(names) or 'no'} members {stem}.*, but {', '.join(members)}; "
            f"{CLEAN_MEMBER}.*, {DAMAGED_MEMBER}.* and {RATE_MEMBER} are expected"
        )
    return names[0]
