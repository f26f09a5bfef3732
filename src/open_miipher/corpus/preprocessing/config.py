"""What the configuration of preprocessing holds.

config/preprocess.yaml and config/data/webdataset_preprocess_24k.yaml explain every key.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from open_miipher.base.errors import report
from open_miipher.corpus.array import ArrayTask
from open_miipher.data import TrainSource
from open_miipher.degradation import DegradationConfig
from open_miipher.shards import S3Config, is_s3

_FOLDER_NAME = re.compile(r"\w[\w.-]*")


@dataclass
class RawSource(TrainSource):
    """Clean speech as indexed directories and as tar files; noise and impulse responses."""

    urls: list[str] = field(default_factory=list)


@dataclass
class PreprocessingData:
    """All of `data`."""

    sample_rate: int = 24000
    crop_seconds: float = 20.0
    sample_seconds: float = 20.0
    low_cut_hz: float | None = 50.0
    peak: float = 0.9
    train: RawSource = field(default_factory=RawSource)
    test: RawSource = field(default_factory=RawSource)
    s3: S3Config = field(default_factory=S3Config)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    max_degradation_failures: float = 0.01

    @property
    def crop_samples(self) -> int:
        """Longest crop, in samples."""
        return round(self.crop_seconds * self.sample_rate)

    @property
    def sample_samples(self) -> int:
        """Length of a sample of a shard, in samples of its waveforms."""
        return round(self.sample_seconds * self.sample_rate)

    def problems(self) -> list[str]:
        """Say which numbers make no sense."""
        rules = {
            "data.sample_rate must be at least 8000": self.sample_rate >= 8000,
            "data.crop_seconds must be at least 0.1": self.crop_seconds >= 0.1,
            "data.sample_seconds must be at least 0.1": self.sample_seconds >= 0.1,
            "data.low_cut_hz must lie within 20 … 1000, or be null": (
                self.low_cut_hz is None or 20 <= self.low_cut_hz <= 1000
            ),
            "data.peak must be above 0 and at most 1": 0 < self.peak <= 1,
            "data.s3.retries must not be negative": self.s3.retries >= 0,
            "data.s3.timeout_seconds must be above 0": self.s3.timeout_seconds > 0,
            "data.max_degradation_failures must lie within 0 … 1": (
                0 <= self.max_degradation_failures <= 1
            ),
            "there is nothing to preprocess: give data.train.dir_list, data.train.urls, "
            "data.test.dir_list or data.test.urls": any(
                source.dir_list or source.urls for source in (self.train, self.test)
            ),
        }
        return [rule for rule, kept in rules.items() if not kept]


@dataclass
class PreprocessingOptions:
    """All of `preprocess`."""

    output_root: str | None = None
    writer_name: str | None = None
    job_id: int | str = "0"
    shard_maxcount: int = 100
    num_writers: int = 1
    audio_format: Literal["npy", "flac"] = "npy"
    ssl_inputs: bool = False
    crops: Literal["random", "all"] = "random"
    seed: int = 0
    num_shards: int | None = None
    shard_id: int | None = None
    overwrite: bool = False

    def problems(self) -> list[str]:
        """Say which keys are missing or make no sense."""
        rules = {
            "preprocess.output_root must be given, a folder": bool(self.output_root),
            f"preprocess.output_root={self.output_root} must be a folder of this machine; copy the "
            "shards to the bucket afterwards": not is_s3(self.output_root or ""),
            "preprocess.writer_name must be given, the name of a folder": _is_name(
                self.writer_name or ""
            ),
            f"preprocess.job_id={self.job_id} must be the name of a folder": _is_name(
                str(self.job_id)
            ),
            "preprocess.shard_maxcount must be at least 1": self.shard_maxcount >= 1,
            "preprocess.num_writers must be at least 1": self.num_writers >= 1,
            "preprocess.seed must not be negative": self.seed >= 0,
            "preprocess.num_shards and preprocess.shard_id belong together; give both or none": (
                (self.num_shards is None) == (self.shard_id is None)
            ),
            f"preprocess.shard_id={self.shard_id} must be one of 0 … preprocess.num_shards - 1": (
                0 <= (self.shard_id or 0) < (1 if self.num_shards is None else self.num_shards)
            ),
        }
        return [rule for rule, kept in rules.items() if not kept]

    @property
    def array_task(self) -> ArrayTask | None:
        """The task of a job array that this run is, or None."""
        if self.num_shards is None or self.shard_id is None:
            return None
        return ArrayTask(self.num_shards, self.shard_id)


@dataclass(frozen=True)
class Preprocessing:
    """A whole configuration.

    Attributes:
        data: what is read and how it is damaged.
        options: what is written and by whom.
        plain: both as plain data.
    """

    data: PreprocessingData
    options: PreprocessingOptions
    plain: dict[str, Any]

    def check(self) -> None:
        """See that all that is needed is given and makes sense.

        Raises:
            UserError: all problems, each with its key.
        """
        report([*self.options.problems(), *self.data.problems()])


def _is_name(text: str) -> bool:
    return _FOLDER_NAME.fullmatch(text) is not None
