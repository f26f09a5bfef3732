"""What a kind of data must give: everything that trains or judges goes through these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from open_miipher.data.batch import Batch
from open_miipher.data.order import Order


@dataclass(frozen=True)
class FailureLimit:
    """How much may go wrong before the loader stops the run.

    Attributes:
        share: failures a sample.
        key: of the share in the configuration.
        what: a failure is, in the plural.
    """

    share: float
    key: str
    what: str


class Dataset(Protocol):
    """Samples at the positions of an endless stream; what a sample is, the dataset alone knows.

    Attributes:
        order: which item stands at which position.
        fingerprint: of the data: a run goes on inside an epoch only if it is the same.
        failure_limit: how much may go wrong.
    """

    order: Order
    fingerprint: str
    failure_limit: FailureLimit

    @property
    def num_items(self) -> int:
        """Samples an epoch."""

    def __getitem__(self, position: int) -> Any:
        """Make the sample at a position: a function of seed, epoch and index alone.

        Raises:
            UserError: it cannot be made.
        """

    def collate(self, samples: Sequence[tuple[int, Any]]) -> Batch:
        """Join samples, given with their positions, into a batch."""


class DataSource(Protocol):
    """One kind of data, chosen by `data.name`; built from its `Config`.

    Attributes:
        validation_key: the key whose emptiness means that there is no validation.
    """

    validation_key: str

    @property
    def batch_type(self) -> type[Batch]:
        """What its datasets' batches are; a recipe says which it trains on."""

    def train(self, seed: int) -> Dataset:
        """Build what a recipe trains on.

        Args:
            seed: of everything drawn.

        Raises:
            UserError: a key is out of range, or data is missing or wrong.

        Warns of what is doubtful.
        """

    def validation(self, seed: int) -> Dataset | None:
        """Build the fixed clips that validation scores, or None without any; as `train`."""


class AudioSource(Protocol):
    """What a recipe asks of a source of audio.

    Attributes:
        sample_rate: of its waveforms, in Hz.
    """

    sample_rate: int
