"""The base class of cleaners: a frozen encoder, and trained weights that repair its features."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.base.ambient import Ambient
from open_miipher.base.errors import report
from open_miipher.encoders import Encoder


class Cleaner(nn.Module, ABC):
    """Gives features of damaged audio that are like the encoder's features of clean audio.

    Attributes:
        encoder: the frozen base model; never trained, never saved.
    """

    Config: ClassVar[type]
    encoder: Encoder

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode and clean a batch.

        Args:
            waveform: (batch, samples) at the encoder's sample rate.
            lengths: (batch,) true samples; None: all are.
            statistics: (batch, n), statistics of the signals that the clips were cut from (see
                `Encoder.forward`); None: each clip's own, as in training.

        Returns:
            features (batch, frames, width) and their lengths (batch,), as `Encoder.forward`.
        """

    @torch.no_grad()
    def teacher(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode without cleaning: exactly what the base model gives, without gradients."""
        return self.encoder(waveform, lengths)

    def merge(self) -> None:
        """Merge the trained weights into the encoder where possible, for faster inference.

        Neither training nor `teacher` works afterwards. Most cleaners have nothing to merge. The
        trained weights do not change.
        """

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Return the trained weights: all except the encoder's."""
        state = self.state_dict()
        return {name: t for name, t in state.items() if not name.startswith("encoder.")}

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load weights that `trained_state_dict` returned.

        Raises:
            UserError: names or shapes differ; it names each of them, and nothing is loaded.
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
    """A cleaner that changes the encoder's activations by hooks on the encoder's modules.

    The hooks are never removed: adding and removing them around each call would be a race between
    threads. They act only during this cleaner's `forward`, in the thread (or task) that called it.
    In any other call the encoder is the unchanged base model.
    """

    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode with active hooks; see `Cleaner.forward`."""
        with _ACTING.given(self):
            return self.encoder(waveform, lengths, statistics)

    @property
    def is_acting(self) -> bool:
        """Whether this cleaner's `forward` is running in this thread; the hooks ask for it."""
        return _ACTING.value is self


_ACTING: Ambient[HookedCleaner | None] = Ambient("acting", None)
