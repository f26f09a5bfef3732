"""The interfaces of data: all training and validation data comes through these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from open_miipher.data.batch import Batch
from open_miipher.data.order import Order
from open_miipher.distributed import World


@dataclass(frozen=True)
class FailureLimit:
    """The share of failures above which the loader stops the run.

    Attributes:
        share: failures per sample.
        key: the configuration key of the share.
        what: what failed, in the plural, for the message ("degradations failed").
        counts: the field of a batch that lists them.
    """

    share: float
    key: str
    what: str
    counts: Literal["failures", "broken"] = "failures"


def broken_limit(share: float) -> FailureLimit:
    """Return the limit of items that cannot be read and are replaced, for every kind of data."""
    return FailureLimit(share, "data.max_broken_samples", "samples could not be read", "broken")


class Dataset(Protocol):
    """Samples at the positions of an endless stream; only the dataset knows what a sample is.

    Attributes:
        order: which item is at which position.
        fingerprint: of the data; a run resumes in the middle of an epoch only if it is the same.
        failure_limits: the shares of failures that are allowed.
    """

    order: Order
    fingerprint: str
    failure_limits: Sequence[FailureLimit]

    @property
    def num_items(self) -> int:
        """Samples per epoch."""

    @property
    def described(self) -> str:
        """What there is: how many files or pairs, and hours where they are known."""

    def __getitem__(self, position: int) -> Any:
        """Make the sample at a position; it depends only on seed, epoch and index.

        Raises:
            UserError: the sample cannot be made.
        """

    def collate(self, samples: Sequence[tuple[int, Any]]) -> Batch:
        """Join samples, given with their positions, into a batch."""


class DataSource(Protocol):
    """One kind of data, chosen by `data.name`; built from its `Config`.

    Attributes:
        Config: the class of its configuration.
        validation_key: the configuration key of the validation data; empty: no validation.
    """

    Config: ClassVar[type]
    validation_key: str

    @property
    def batch_type(self) -> type[Batch]:
        """The kind of batch of its datasets; a recipe accepts some kinds (`data_kinds`)."""

    def train(self, seed: int) -> Dataset:
        """Build the training data; warns of doubtful data.

        Args:
            seed: of everything drawn.

        Raises:
            UserError: a key is out of range, or data is missing or wrong.
        """

    def validation(self, seed: int) -> Dataset | None:
        """Build the fixed clips for validation, like `train`; None if there are none."""


@runtime_checkable
class MadeFirst(Protocol):
    """A data source that makes something beside the run before it can be asked for data."""

    def make(self, output_dir: Path, world: World, say: Callable[[str], None]) -> None:
        """Make what is not there yet; called on every rank, which share the work.

        Args:
            output_dir: of the run.
            world: the ranks.
            say: tells how far it is.

        Raises:
            UserError: on every rank alike: a key is out of range, or data is missing or wrong.
        """


@runtime_checkable
class FindsFiles(Protocol):
    """A data source whose samples for listening may be of a file that is named."""

    def named(self, name: str, seed: int) -> Dataset:
        """Build the one clip of a name, like those of validation.

        Args:
            name: of a file, without its ending.
            seed: of the place of the crop.

        Raises:
            UserError: no file has that name; or as for validation.
        """


class AudioSource(Protocol):
    """The part of a data source that a recipe for audio reads.

    Attributes:
        sample_rate: of the waveforms, in Hz.
        crop_seconds: length of a crop in training.
    """

    sample_rate: int
    crop_seconds: float


class LabelSource(AudioSource, Protocol):
    """What a recipe for audio with labels reads besides."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the labels, by their numbers."""
