"""The configuration of synthesis; config/synthetic_generation_cfg.yaml explains every key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from open_miipher.audio.formats import SAMPLE_RATES
from open_miipher.base.errors import report
from open_miipher.codec.audio_tokenizer import CodecConfig
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.outcome import MaxFailures, is_limit
from open_miipher.synthesis.judging import MAX_CHARACTERS
from open_miipher.synthesis.tts_processor import TTSConfig

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@dataclass
class DatasetConfig:
    """All of `dataset`."""

    name: str | None = None
    split: str = "train"
    text_column: str = "text"
    index_column: str | None = None
    max_characters: int = MAX_CHARACTERS
    remaining_indices_file: str | None = None


@dataclass
class ProcessingConfig:
    """All of `processing`."""

    save_dir: str | None = None
    do_test: bool = False
    devices: str | list[str] = "auto"
    num_procs_per_device: int = 1
    save_batch_size: int = 200
    max_retries: int = 3
    sample_rate: int = 24000
    seed: int = 0
    time_limit: float = 300.0
    restore_ckpt_dir: str | None = None
    max_failures: int | str = 0
    num_shards: int | None = None
    shard_id: int | None = None
    overwrite: bool = False


@dataclass
class LoggingConfig:
    """All of `logging`."""

    log_file: str | None = None
    console_level: Level = "INFO"
    file_level: Level = "DEBUG"


@dataclass
class OutputConfig:
    """All of `output`."""

    format: Literal["csv", "parquet"] = "csv"
    keep_audio: Literal["files", "shards", "none"] = "files"


@dataclass
class SynthesisConfig:
    """A whole configuration; `plain` is all of it as plain data."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    tts: TTSConfig = field(default_factory=TTSConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    plain: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """See that all that is needed is given and makes sense.

        Raises:
            UserError: all problems, each with its key.
        """
        processing, dataset, tts = self.processing, self.dataset, self.tts
        low, high = SAMPLE_RATES
        rules = {
            "dataset.name must be given: a hub id, or a jsonl, csv, parquet or txt file": bool(
                dataset.name
            ),
            "dataset.max_characters must be at least 1": dataset.max_characters >= 1,
            "tts.batch_size must be at least 1": tts.batch_size >= 1,
            "tts.characters_per_second must be above 0": tts.characters_per_second > 0,
            "processing.save_dir must be given, a folder": bool(processing.save_dir),
            "processing.devices must be auto, or a list such as [cuda:0,cuda:1] or [cpu]": (
                processing.devices == "auto"
                or (isinstance(processing.devices, list) and bool(processing.devices))
            ),
            "processing.num_procs_per_device must be at least 1": (
                processing.num_procs_per_device >= 1
            ),
            "processing.save_batch_size must be at least 1": processing.save_batch_size >= 1,
            "processing.max_retries must not be negative": processing.max_retries >= 0,
            f"processing.sample_rate must be {low} to {high}": (
                low <= processing.sample_rate <= high
            ),
            "processing.seed must not be negative": processing.seed >= 0,
            "processing.time_limit must be above 0, in seconds": processing.time_limit > 0,
            f"processing.max_failures={processing.max_failures} must be a whole number, or a share "
            "such as 0.5%": is_limit(str(processing.max_failures)),
            "processing.num_shards and processing.shard_id belong together; give both or none": (
                (processing.num_shards is None) == (processing.shard_id is None)
            ),
            f"processing.shard_id={processing.shard_id} must be one of 0 … processing.num_shards "
            "- 1": 0 <= (processing.shard_id or 0) < (processing.num_shards or 1),
        }
        report([rule for rule, kept in rules.items() if not kept])

    @property
    def folder(self) -> Path:
        """Where the outputs go."""
        return Path(str(self.processing.save_dir))

    @property
    def allowed(self) -> MaxFailures:
        """How many texts may fail."""
        return MaxFailures(str(self.processing.max_failures))

    @property
    def array_task(self) -> ArrayTask | None:
        """The task of a job array that this run is, or None."""
        count, index = self.processing.num_shards, self.processing.shard_id
        return None if count is None or index is None else ArrayTask(count, index)
