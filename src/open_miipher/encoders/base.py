"""The base class of encoders: frozen networks that give features at a fixed frame rate."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from open_miipher.audio.mel import MelConfig
from open_miipher.base.ambient import Ambient


class Encoder(nn.Module, ABC):
    """A frozen network (or none) that turns waveforms into features.

    Frame k describes samples k · hop_length … (k + 1) · hop_length. There are
    ceil(samples / hop_length) frames: the end of a clip is padded with zeros, never lost. A clip's
    valid features do not depend on its padding, nor on the other clips of its batch. The weights
    get no gradient, but gradients pass through the layers to what a cleaner adds to them.

    Attributes:
        sample_rate: in Hz, of the waveform that `forward` takes.
        hop_length: samples per feature frame.
        width: values per feature frame.
        carries_level: whether the features depend on the level of the waveform.
        needs_statistics: whether the front end normalises by statistics of its whole input. Then a
            piece of a signal has other features than the whole; `measure` computes the statistics
            of the whole.
        mel: the front end of log-mel features; None for other features.
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
        """The transformer or conformer blocks that are used, in order; empty if there are none.

        Every `forward` calls each of them as a module. Its input and output are hidden states
        (batch, frames, width), or tuples that begin with these.
        """

    @property
    def frame_rate(self) -> float:
        """Feature frames per second."""
        return self.sample_rate / self.hop_length

    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveform: (batch, samples) at `sample_rate`, at least one sample long.
            lengths: (batch,) int64, true samples of each clip, at least 1; the samples of
                `waveform` after them are ignored. None: every clip is as long as the batch, and
                attention does without masks.
            statistics: (batch, n), what `measure` returned for the signals that the clips were cut
                from; None: each clip's own statistics.

        Returns:
            features (batch, ceil(samples / hop_length), width), float32 or the autocast type, and
            their lengths (batch,) = ceil(lengths / hop_length).
        """
        batch, num_samples = waveform.shape
        waveform = waveform.float()  # samples are processed in float32 even under autocast
        is_full = lengths is None
        if lengths is None:
            lengths = torch.full((batch,), num_samples, device=waveform.device)
        else:
            lengths = lengths.to(waveform.device)
            waveform = waveform.masked_fill(~frame_mask(lengths, num_samples), 0.0)
        frame_lengths = (lengths + self.hop_length - 1) // self.hop_length
        waveform = nn.functional.pad(waveform, (0, -num_samples % self.hop_length))
        with _IS_FULL.given(is_full):
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
        """Compute the statistics of whole signals, in constant memory.

        They do not depend on how the signals are cut into blocks. For a whole signal they equal
        what `forward` computes itself.

        Args:
            blocks: each (rows, n) float32 at `sample_rate`, one row for each signal; at least one
                sample together.

        Returns:
            (rows, n) float64, for `forward`. The meaning of the numbers depends on the encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} normalises by no statistics")

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode: never any dropout, layer drop or update of statistics."""
        return super().train(False)

    def freeze(self, description: str = "") -> None:
        """Freeze the weights and compute their fingerprint; a constructor calls this last.

        Args:
            description: the settings besides the weights that the features depend on.
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


_IS_FULL: Ambient[bool] = Ambient("is_full", False)


def attention_mask(lengths: Tensor, num_frames: int) -> Tensor | None:
    """As `frame_mask`, for an encoder's attention; None if all is known to be valid.

    Kernels without a mask are faster, and to look into one would be to wait for the device.
    """
    return None if _IS_FULL.value else frame_mask(lengths, num_frames)


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """Return a mask of the valid frames.

    Args:
        lengths: (batch,) valid frames (or samples) of each row.
        num_frames: frames of the longest row.

    Returns:
        (batch, num_frames) bool, True = valid.
    """
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]
