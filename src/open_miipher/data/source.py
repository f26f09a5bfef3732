"""What a kind of data must give: everything that trains or judges goes through these."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from open_miipher.data.order import Order


@dataclass
class Sample:
    """One pair.

    Attributes:
        clean: (samples,), the target: float32, or int16 as files of 16 bits have it.
        damaged: as `clean`, and aligned with it.
        name: file, epoch and index.
        start_seconds: where in the file the crop begins.
        drawn: the stages that damaged it and their parameters, in order.
        failures: what went wrong in making it, with the reason.
    """

    clean: np.ndarray
    damaged: np.ndarray
    name: str
    start_seconds: float
    drawn: list[dict[str, Any]]
    failures: list[str]


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
    """Pairs at the positions of an endless stream.

    Attributes:
        order: which item stands at which position.
        fingerprint: of the data: a run goes on inside an epoch only if it is the same.
        sample_rate: of the pairs, in Hz.
        crop_samples: the most samples of one.
        failure_limit: how much may go wrong.
    """

    order: Order
    fingerprint: str
    sample_rate: int
    crop_samples: int
    failure_limit: FailureLimit

    @property
    def num_items(self) -> int:
        """Samples an epoch."""

    def __getitem__(self, position: int) -> Sample:
        """Make the sample at a position: a function of seed, epoch and index alone."""


class DataSource(Protocol):
    """One kind of data, chosen by `data.name`; built from its `Config`.

    Attributes:
        sample_rate: of the pairs, in Hz.
        validation_key: the key whose emptiness means that there is no validation.
    """

    sample_rate: int
    validation_key: str

    def train(self, seed: int) -> Dataset:
        """Build what a recipe trains on.

        Args:
            seed: of everything drawn.

        Raises:
            UserError: a key is out of range, or data is missing or wrong.

        Warns of what is doubtful.
        """

    def validation(self, seed: int) -> Dataset | None:
        """Build the fixed clips that validation restores, or None without any; as `train`."""
