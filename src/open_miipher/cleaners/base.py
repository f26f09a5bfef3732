"""What every cleaner is: a frozen encoder, and something that trains to mend its features."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.base.errors import report
from open_miipher.encoders import Encoder


class Cleaner(nn.Module, ABC):
    """A frozen encoder whose features, of damaged audio, are to come out as those of clean audio.

    Attributes:
        encoder: the base model; never trained, never saved.
    """

    Config: ClassVar[type]
    encoder: Encoder

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def forward(
        self, waveform: Tensor, lengths: Tensor, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode and clean a batch.

        Args:
            waveform: (batch, samples) at the encoder's sample rate.
            lengths: (batch,) true samples.
            statistics: (batch, n), of the signals that the clips are pieces of (see
                `Encoder.forward`); None: each clip's own, as in training.

        Returns:
            features (batch, frames, width) and their lengths (batch,), as `Encoder.forward`.
        """

    @torch.no_grad()
    def teacher(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode without cleaning: the base model, bit for bit, without gradients."""
        return self.encoder(waveform, lengths)

    def merge(self) -> None:
        """Become as fast as can be, for inference alone: no training and no teacher after it.

        Most cleaners have nothing to merge. The trained weights stay what they are.
        """

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Return the weights that train: all but the encoder's."""
        state = self.state_dict()
        return {name: t for name, t in state.items() if not name.startswith("encoder.")}

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained_state_dict` gave: the same names and shapes, no more and no fewer.

        Raises:
            UserError: naming every weight that does not fit; nothing is loaded then.
        """
        own = self.trained_state_dict()
        shapes = {n: (tuple(state[n].shape), tuple(own[n].shape)) for n in own.keys() & state}
        report(
            [f"the cleaner's weights lack {name}" for name in sorted(own.keys() - state)]
            + [f"this cleaner has no {name}" for name in sorted(state.keys() - own)]
            + [
                f"the cleaner's {name} has shape {given}, but {needed} is configured"
                for name, (given, needed) in sorted(shapes.items())
                if given != needed
            ]
        )
        # Not strict only because the encoder's weights are absent on purpose.
        self.load_state_dict(state, strict=False)


class HookedCleaner(Cleaner):
    """A cleaner that changes the encoder from within, by hooks on its modules.

    The hooks stay there for good (adding and removing them around each call would race with other
    threads) and act only inside this cleaner's `forward`, in the thread (or task) that called it;
    called in any other way the encoder is the untouched base model.
    """

    def forward(
        self, waveform: Tensor, lengths: Tensor, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode with the hooks acting; see `Cleaner.forward`."""
        previous = _ACTING.set(self)
        try:
            return self.encoder(waveform, lengths, statistics)
        finally:
            _ACTING.reset(previous)

    @property
    def is_acting(self) -> bool:
        """Whether it is this cleaner's forward that runs here; asked by its hooks."""
        return _ACTING.get() is self


_ACTING: ContextVar[HookedCleaner | None] = ContextVar("acting", default=None)
