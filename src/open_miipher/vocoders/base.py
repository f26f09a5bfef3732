"""What every vocoder is to the rest of the package, and what adversarial training asks besides."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.audio.mel import MelConfig


class Vocoder(nn.Module, ABC):
    """Turns features into a waveform of exactly `frames * hop_length` samples.

    Attributes:
        sample_rate: of the waveform, in Hz.
        hop_length: samples per feature frame.
        needs_noise: whether the noise given is used.
        restores_level: True if the output has the level of the speech that the features describe;
            False if it comes at a fixed peak and levels must be put back.
        mel: the front end that log-mel features must come from; None for other features.
    """

    Config: ClassVar[type]
    sample_rate: int
    hop_length: int
    needs_noise: bool
    restores_level: bool
    mel: MelConfig | None = None

    @abstractmethod
    def generate(self, features: Tensor, noise: Tensor) -> Tensor:
        """Vocode for listening, without a graph.

        Args:
            features: (batch, frames, feature_width).
            noise: (batch, frames * hop_length), standard normal; anything if it needs none.

        Returns:
            (batch, frames * hop_length) float32.
        """


class AdversarialGenerator(Vocoder):
    """A vocoder that trains against discriminators, which judge the output of every iteration.

    Attributes:
        num_missing: samples at the end of every output that are zeros, whatever the features.
    """

    num_missing: int = 0

    @abstractmethod
    def forward(self, features: Tensor, noise: Tensor) -> list[Tensor]:
        """Vocode for training; see `generate` for the arguments.

        Returns:
            The output of every iteration, (batch, frames * hop_length) each, the final one last.
        """

    @abstractmethod
    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """Scale clean speech to what the outputs are compared with.

        Args:
            clean: (batch, samples), the piece that the vocoder speaks.
            whole: (batch, samples), all that the encoder has seen, the piece among it.

        Returns:
            (batch, samples) of the piece.
        """

    @torch.no_grad()
    def generate(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the last of what `forward` returns, bit for bit; see `Vocoder.generate`."""
        return self(features, noise)[-1]
