"""Tell what shards hold: hours, how long the samples are, and how they were degraded.

    python dataset/script/summarise_shards.py PATH … [--endpoint-url URL] [--profile NAME]

A PATH is a shard, a directory of shards, a pattern, or a text file that lists them; s3:// as well.
Durations come from headers: audio is not decoded. A sample without `input_wav` counts by its
longest audio member; one without audio counts as a sample of no length, and the last line tells how
many there are. Broken shards are named. Exit status: 0 done, 1 a shard is broken, 2 wrong use.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np
from tqdm import tqdm

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioError
from open_miipher.base.amounts import counted
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.paths import printable
from open_miipher.commands import Parser
from open_miipher.shards import (
    ARRAY_HEADER_BYTES,
    CLEAN_MEMBER,
    RATE_MEMBER,
    S3Config,
    ShardError,
    Storage,
    StorageError,
    expand,
    measure_waveform,
    visit_members,
)

_DEGRADATIONS = "degradations.json"
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_BARS = 12
_BAR_WIDTH = 40


@dataclass
class Summary:
    """What a shard holds.

    Attributes:
        url: of the shard.
        num_bytes: of the file.
        seconds: of each sample with audio.
        num_without_audio: the other samples.
        degradations: how many samples each took part in.
        num_degraded: samples that tell their degradations.
        broken: why it could not be read, if it could not.
    """

    url: str
    num_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    num_without_audio: int = 0
    degradations: Counter[str] = field(default_factory=Counter)
    num_degraded: int = 0
    broken: str | None = None

    @property
    def num_samples(self) -> int:
        """All samples."""
        return len(self.seconds) + self.num_without_audio

    @property
    def hours(self) -> float:
        """Hours of all samples."""
        return sum(self.seconds) / 3600


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--endpoint-url", help="of S3-compatible storage (default: Amazon's)")
    parser.add_argument("--profile", help="section of ~/.aws/credentials")
    parser.add_argument(
        "--num-workers", type=int, default=8, help="shards read at a time (default: %(default)s)"
    )
    return parser.parse_args()


@exit_on_user_error
def main() -> int:
    """Read all shards and print tables."""
    arguments = _arguments()
    if arguments.num_workers < 1:
        raise UserError(f"--num-workers must be at least 1, not {arguments.num_workers}")
    storage = Storage(S3Config(arguments.endpoint_url, arguments.profile))
    urls = expand(arguments.paths, storage, "PATH")
    executor = ThreadPoolExecutor(arguments.num_workers)
    try:
        results = executor.map(partial(summarise, storage), urls)
        shown = tqdm(results, total=len(urls), unit="shard", disable=not sys.stderr.isatty())
        summaries = list(shown)
    finally:
        executor.shutdown(cancel_futures=True)
    print("\n".join(_report(summaries)))
    broken = [summary.broken for summary in summaries if summary.broken]
    for reason in broken:
        print(f"broken: {reason}", file=sys.stderr)
    return 1 if broken else 0


def summarise(storage: Storage, url: str) -> Summary:
    """Read the headers of a shard.

    Raises:
        StorageError: the storage cannot be reached.
    """
    summary = Summary(url)
    try:
        summary.num_bytes = storage.size(url)
        if not summary.num_bytes:
            raise ShardError(f"{printable(url)} is empty")
        reading = _Reading(summary)
        with storage.open(url) as file:
            visit_members(file, url, reading.take)
        reading.finish_sample()
        if not summary.num_samples:
            raise ShardError(f"{printable(url)} holds no samples")
    except StorageError:
        raise
    except UserError as error:
        return replace(summary, broken=str(error))
    return summary


class _Reading:
    """Fills a summary with the samples that a shard's members make."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._key: str | None = None
        self._sample = _Sample("")

    def take(self, key: str, name: str, content: BinaryIO) -> None:
        """Take the next member."""
        if key != self._key:
            self.finish_sample()
            self._key, self._sample = key, _Sample(printable(f"{self._summary.url} {key}"))
        self._sample.add(name, content)

    def finish_sample(self) -> None:
        """Count the sample whose members came last, if any did."""
        if self._key is None:
            return
        summary, degradations = self._summary, self._sample.degradations
        seconds = self._sample.seconds()
        if seconds is None:
            summary.num_without_audio += 1
        else:
            summary.seconds.append(seconds)
        if degradations is not None:
            summary.num_degraded += 1
            summary.degradations.update(degradations)


class _Sample:
    """What the members of one sample tell."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lengths: dict[str, tuple[int, int | None]] = {}
        self._rate: int | None = None
        self.degradations: set[str] | None = None

    def add(self, name: str, content: BinaryIO) -> None:
        """Take a member."""
        stem, _, extension = name.rpartition(".")
        extension = extension.lower()
        try:
            if name == RATE_MEMBER:
                self._rate = int(content.read(32))
            elif name == _DEGRADATIONS:
                self.degradations = _names(json.loads(content.read()))
            elif extension in ("npy", "pth", *AUDIO_EXTENSIONS):
                data = content.read(ARRAY_HEADER_BYTES if extension == "npy" else -1)
                info = measure_waveform(data, name)
                self._lengths[stem] = (info.num_samples, info.sample_rate)
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(f"{self._where}: {printable(name)} is damaged: {error}") from error
        except (ShardError, AudioError) as error:
            raise ShardError(f"{self._where}: {error}") from error

    def seconds(self) -> float | None:
        """Return how long the target is, or the longest member; None if there is no audio."""
        lengths = self._lengths
        chosen = [lengths[CLEAN_MEMBER]] if CLEAN_MEMBER in lengths else list(lengths.values())
        if not chosen:
            return None
        rates = [rate or self._rate for _, rate in chosen]
        if not all(rates):
            raise ShardError(
                f"{self._where}: neither its audio nor {RATE_MEMBER} tells its sample rate"
            )
        return max(num / rate for (num, _), rate in zip(chosen, rates, strict=True) if rate)


def _names(drawn: list[Any]) -> set[str]:
    """Return the names of drawn stages, listed plainly or for each of a sample's pieces."""
    pieces = [stage if isinstance(stage, list) else [stage] for stage in drawn]
    return {stage["name"] for piece in pieces for stage in piece}


def _report(summaries: list[Summary]) -> Iterator[str]:
    """Yield the lines of the tables."""
    yield f"{'samples':>9} {'hours':>10} {'GB':>9}  shard"
    for summary in summaries:
        yield _row(summary, printable(summary.url) + (" (broken)" if summary.broken else ""))
    seconds = [own for summary in summaries for own in summary.seconds]
    silent = sum(summary.num_without_audio for summary in summaries)
    total = Summary("all", sum(s.num_bytes for s in summaries), seconds, silent)
    yield _row(total, f"all {len(summaries)} shards")
    if seconds:
        yield ""
        yield from _distribution(np.array(seconds))
    num_degraded = sum(summary.num_degraded for summary in summaries)
    counts: Counter[str] = sum((s.degradations for s in summaries), Counter())
    if num_degraded:
        yield ""
        yield f"degradations of {counted(num_degraded, 'samples')}"
        for name, count in counts.most_common():
            yield f"{count:9} {100 * count / num_degraded:9.1f} %  {name}"
    if silent:
        yield ""
        yield f"{silent} of {total.num_samples} samples hold no audio"


def _row(summary: Summary, name: str) -> str:
    gigabytes = summary.num_bytes / 1e9
    return f"{summary.num_samples:9} {summary.hours:10.3f} {gigabytes:9.3f}  {name}"


def _distribution(seconds: np.ndarray) -> Iterator[str]:
    values = np.percentile(seconds, _PERCENTILES)
    percentiles = [f"{p} %: {v:.2f}" for p, v in zip(_PERCENTILES, values, strict=True)]
    yield f"seconds, mean {seconds.mean():.2f}; percentiles {', '.join(percentiles)}"
    if values[0] == values[-1]:
        return
    counts, edges = np.histogram(seconds, _BARS)
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "#" * -(-_BAR_WIDTH * int(count) // int(counts.max()))
        yield f"{low:9.2f} - {high:8.2f} {count:9} {bar}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
