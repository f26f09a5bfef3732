"""What every encoder is: frozen features at a fixed frame rate, whatever stands in the padding."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.audio.mel import MelConfig


class Encoder(nn.Module, ABC):
    """A frozen network (or none) that turns waveforms into features.

    Frame k describes samples k · hop_length … (k + 1) · hop_length, and there are
    ceil(samples / hop_length) of them: tails are padded with zeros, never lost. A clip's valid
    features do not depend on the other clips of its batch. The weights take no gradient, but
    gradients pass through to whatever is added to the activations of `layers`.

    Attributes:
        sample_rate: in Hz, of the waveform that `forward` takes.
        hop_length: samples per feature frame.
        width: values per feature frame.
        carries_level: whether the features tell how loud the waveform is.
        needs_statistics: whether the front end normalises by statistics of all it is given, so
            that a piece of a signal has other features than the whole; `measure` takes them.
        mel: the front end, of features that are log-mel spectra; None for others.
    """

    Config: ClassVar[type]
    sample_rate: int
    hop_length: int
    width: int
    carries_level: bool = False
    needs_statistics: bool = False
    mel: MelConfig | None = None

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The used transformer or conformer blocks, in order; empty if there are none.

        Each is called as a module in every `forward`; its input and output are, or begin with,
        hidden states (batch, frames, width).
        """

    @property
    def frame_rate(self) -> float:
        """Feature frames per second."""
        return self.sample_rate / self.hop_length

    def forward(
        self, waveform: Tensor, lengths: Tensor, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveform: (batch, samples) at `sample_rate`, at least one sample long.
            lengths: (batch,) int64, true samples of each clip, at least 1; what stands in
                `waveform` beyond them is ignored.
            statistics: (batch, n), of the signals that the clips are pieces of, as `measure` gives
                them; None: each clip's own.

        Returns:
            features (batch, ceil(samples / hop_length), width), float32 or the autocast type, and
            their lengths (batch,) = ceil(lengths / hop_length).
        """
        lengths = lengths.to(waveform.device)
        # Everything that touches the samples is done in float32, whatever autocast says.
        waveform = waveform.float().masked_fill(~frame_mask(lengths, waveform.shape[1]), 0.0)
        tail = -waveform.shape[1] % self.hop_length
        frame_lengths = (lengths + self.hop_length - 1) // self.hop_length
        waveform = nn.functional.pad(waveform, (0, tail))
        if statistics is None:
            return self.encode(waveform, frame_lengths), frame_lengths
        statistics = statistics.to(waveform.device)
        return self.encode_with(waveform, frame_lengths, statistics), frame_lengths

    @abstractmethod
    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """Encode whole frames of samples.

        Args:
            waveform: (batch, frames · hop_length) float32, zero beyond each clip's samples.
            frame_lengths: (batch,) valid frames of each clip.

        Returns:
            (batch, frames, width).
        """

    def encode_with(self, waveform: Tensor, frame_lengths: Tensor, statistics: Tensor) -> Tensor:
        """As `encode`, normalised by statistics from `measure`; see `forward`."""
        raise NotImplementedError(f"{type(self).__name__} normalises by no statistics")

    def measure(self, blocks: Iterable[Tensor]) -> Tensor:
        """Take the statistics of whole signals, in constant memory; the cut into blocks is free.

        Of a signal in one piece they are what `forward` would normalise it by itself.

        Args:
            blocks: each (rows, n) float32 at `sample_rate`, one row a signal; together at least
                one sample.

        Returns:
            (rows, n) float64, for `forward`; what the numbers mean is the encoder's business.
        """
        raise NotImplementedError(f"{type(self).__name__} normalises by no statistics")

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode: no dropout, no layer drop, no running statistics, ever."""
        return super().train(False)

    def freeze(self, description: str = "") -> None:
        """Fix the weights and take their fingerprint; the last thing a constructor does.

        Args:
            description: the settings outside the weights that the features depend on.
        """
        self.requires_grad_(False)
        self.train(False)
        digest = hashlib.sha256(f"{type(self).__name__} {description}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        self._fingerprint = digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of the base weights as they were loaded, and of the front end's settings."""
        return self._fingerprint


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """Mark what is valid.

    Args:
        lengths: (batch,) valid frames (or samples) of each row.
        num_frames: frames of the longest row.

    Returns:
        (batch, num_frames) bool, True = valid.
    """
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]
