"""The interfaces of data: all training and validation data comes through these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from open_miipher.data.batch import Batch
from open_miipher.data.order import Order


@dataclass(frozen=True)
class FailureLimit:
    """The share of failures above which the loader stops the run.

    Attributes:
        share: failures per sample.
        key: the configuration key of the share.
        what: what failed, in the plural, for the message ("degradations failed").
    """

    share: float
    key: str
    what: str


class Dataset(Protocol):
    """Samples at the positions of an endless stream; only the dataset knows what a sample is.

    Attributes:
        order: which item is at which position.
        fingerprint: of the data; a run resumes in the middle of an epoch only if it is the same.
        failure_limit: the share of failures that is allowed.
    """

    order: Order
    fingerprint: str
    failure_limit: FailureLimit

    @property
    def num_items(self) -> int:
        """Samples per epoch."""

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
        validation_key: the configuration key of the validation data; empty: no validation.
    """

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


class AudioSource(Protocol):
    """The part of a data source that a recipe for audio reads.

    Attributes:
        sample_rate: of the waveforms, in Hz.
    """

    sample_rate: int
