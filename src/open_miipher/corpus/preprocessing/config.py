"""The configuration of preprocessing; config/preprocess.yaml explains every key."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from open_miipher.base.errors import report
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.outcome import MaxFailures, is_limit
from open_miipher.data.config import PreprocessingData

_FOLDER_NAME = re.compile(r"\w[\w.-]*")


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
    max_failures: int | str = 0
    outputs_elsewhere: bool = False

    def problems(self) -> list[str]:
        """Say which keys are missing or make no sense."""
        rules = {
            "preprocess.output_root must be given, a folder": bool(self.output_root),
            f"preprocess.output_root={self.output_root} must be a folder of this machine; copy the "
            "shards to the bucket afterwards (and go on without them by "
            "preprocess.outputs_elsewhere=true)": "://" not in (self.output_root or ""),
            "preprocess.writer_name must be given, the name of a folder": bool(
                _FOLDER_NAME.fullmatch(self.writer_name or "")
            ),
            f"preprocess.job_id={self.job_id} must be the name of a folder": bool(
                _FOLDER_NAME.fullmatch(str(self.job_id))
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
            f"preprocess.max_failures={self.max_failures} must be a whole number, or a share such "
            "as 0.5%": is_limit(str(self.max_failures)),
        }
        return [rule for rule, kept in rules.items() if not kept]

    @property
    def allowed(self) -> MaxFailures:
        """How many inputs may not be readable in full."""
        return MaxFailures(str(self.max_failures))

    @property
    def folder(self) -> Path:
        """What the folders of both splits lie in."""
        return Path(str(self.output_root), str(self.writer_name))

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
