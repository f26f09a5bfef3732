"""Batches: the fields of every batch, pairs of clean and damaged speech, audio, and tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from open_miipher.shards import FULL_SCALE


@dataclass
class Batch:
    """The fields of every batch; each kind of batch adds its tensors.

    Attributes:
        kind: what it holds, as an error message describes it.
        has_one_shape: whether all batches of a training run have the same shape, so that it pays to
            try which algorithm is the fastest.
        waveforms: the fields that hold audio: float32, full scale 1, or int16 until `to`, which
            halves what is copied between processes and to the device.
        positions: (batch,) int64 on the CPU, places in the endless stream; they select the noise
            that a step draws.
        names: file, epoch and index of each sample, for messages.
        failures: what failed while the samples were made, with the reason.
        broken: why items could not be read whose places others took.
    """

    kind: ClassVar[str]
    has_one_shape: ClassVar[bool] = False
    waveforms: ClassVar[tuple[str, ...]] = ()
    positions: Tensor
    names: list[str]
    failures: list[str]
    broken: list[str] = field(default_factory=list, kw_only=True)

    @classmethod
    def of(cls, samples: Sequence[tuple[int, Any]], *tensors: Tensor | None) -> Self:
        """Make a batch of samples that have a name, failures and broken items.

        Args:
            samples: each with its position.
            *tensors: the fields of this kind, in order.
        """
        return cls(
            torch.tensor([position for position, _ in samples]),
            [sample.name for _, sample in samples],
            [failure for _, sample in samples for failure in sample.failures],
            *tensors,
            broken=[reason for _, sample in samples for reason in sample.broken],
        )

    def to(self, device: torch.device | str) -> Self:
        """Copy all tensors except `positions` to a device, and make `waveforms` floats there.

        From pinned memory, this does not wait.
        """
        tensors = self._tensors()
        moved = {n: t.to(device, non_blocking=True) for n, t in tensors.items()}
        return replace(self, **moved | {n: _as_float(moved[n]) for n in self.waveforms})

    def pin_memory(self) -> Self:
        """Copy all tensors to page-locked memory; torch's loader calls this."""
        pinned = {name: t.pin_memory() for name, t in self._tensors().items()}
        return replace(self, positions=self.positions.pin_memory(), **pinned)

    def _tensors(self) -> dict[str, Any]:
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and name != "positions"
        }


@dataclass
class PairSample:
    """One pair.

    Attributes:
        clean: (samples,), the target: float32, or int16 if the file has 16 bits.
        damaged: like `clean`, and aligned with it.
        name: file, epoch and index.
        start_seconds: start of the crop in the file.
        drawn: the degradation stages that were applied and their parameters, in order.
        failures: what failed while the sample was made, with the reason.
        broken: why items could not be read whose place this one took.
    """

    clean: np.ndarray
    damaged: np.ndarray
    name: str
    start_seconds: float
    drawn: list[dict[str, Any]]
    failures: list[str]
    broken: list[str] = field(default_factory=list)


@dataclass
class PairBatch(Batch):
    """Clean and damaged speech.

    Attributes:
        clean: (batch, samples), zero beyond `lengths`; float32, or int16 until `to`.
        damaged: like `clean`, and aligned with it.
        lengths: (batch,) int64, number of samples before the padding.
        is_full: whether it is known that there is no padding, without asking the device.
    """

    kind = "pairs of clean and damaged speech"
    has_one_shape = True
    waveforms = ("clean", "damaged")
    clean: Tensor
    damaged: Tensor
    lengths: Tensor
    is_full: bool = field(default=False, kw_only=True)

    @property
    def true_lengths(self) -> Tensor | None:
        """`lengths`, or None if it is known that there is no padding."""
        return None if self.is_full else self.lengths

    @classmethod
    def join(cls, samples: Sequence[tuple[int, PairSample]], num_samples: int | None) -> Self:
        """Join samples; shorter ones are padded with zeros.

        Args:
            samples: each with its position.
            num_samples: length of the batch; None: the length of its longest sample.
        """
        lengths = [len(sample.clean) for _, sample in samples]
        num_samples = num_samples or max(lengths)
        batch = cls.of(
            samples,
            _stack([sample.clean for _, sample in samples], num_samples),
            _stack([sample.damaged for _, sample in samples], num_samples),
            torch.tensor(lengths),
        )
        return replace(batch, is_full=min(lengths) == num_samples)


@dataclass
class AudioSample:
    """One clip.

    Attributes:
        waveform: (samples,) float32, or int16.
        mel: (bands, frames) float32 that was read from a file; None: there is none.
        label: number of its label, where there are labels.
        name: file, epoch and index.
        failures: none; nothing is done to the clip that could fail.
        broken: why items could not be read whose place this one took.
    """

    waveform: np.ndarray
    mel: np.ndarray | None
    label: int
    name: str
    failures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass
class AudioBatch(Batch):
    """Audio.

    Attributes:
        waveform: (batch, samples), zero beyond `lengths`; float32, or int16 until `to`.
        lengths: (batch,) int64, number of samples before the padding.
        mels: (batch, bands, frames) float32 read from files, or None.
    """

    kind = "audio"
    has_one_shape = True
    waveforms = ("waveform",)
    waveform: Tensor
    lengths: Tensor
    mels: Tensor | None

    @classmethod
    def join(cls, samples: Sequence[tuple[int, AudioSample]], num_samples: int) -> Self:
        """Join samples; shorter ones are padded.

        Args:
            samples: each with its position; all or none have a mel, equally long.
            num_samples: length of the batch, if no sample is longer.
        """
        return cls.of(samples, *_audio([sample for _, sample in samples], num_samples))


@dataclass
class LabelledBatch(AudioBatch):
    """Audio with labels.

    Attributes:
        label: (batch,) int64, numbers of labels.
    """

    kind = "audio with labels"
    label: Tensor

    @classmethod
    def join(cls, samples: Sequence[tuple[int, AudioSample]], num_samples: int) -> Self:
        """Join samples, as `AudioBatch.join` does."""
        own = [sample for _, sample in samples]
        labels = torch.tensor([sample.label for sample in own])
        return cls.of(samples, *_audio(own, num_samples), labels)


@dataclass
class TokenSample:
    """One utterance.

    Attributes:
        text: (bytes + 1,) int64 ids, with the mark of the end.
        codes: (frames, codebooks) int16, the codec's.
        name: file, epoch and index.
        failures: none.
        broken: none: what cannot be read got no tokens.
    """

    text: np.ndarray
    codes: np.ndarray
    name: str
    failures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass
class TokenBatch(Batch):
    """Texts, and the tokens of speech that says them.

    Attributes:
        text: (batch, bytes) int64 ids, 0 beyond `text_lengths`.
        text_lengths: (batch,) int64.
        codes: (batch, frames, codebooks) int64, 0 beyond `code_lengths`.
        code_lengths: (batch,) int64, frames.
    """

    kind = "texts with the tokens of speech"
    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    code_lengths: Tensor

    @classmethod
    def join(cls, samples: Sequence[tuple[int, TokenSample]]) -> Self:
        """Join samples, given with their positions; shorter ones are padded with zeros."""
        texts = [torch.from_numpy(sample.text) for _, sample in samples]
        codes = [torch.from_numpy(sample.codes.astype(np.int64)) for _, sample in samples]
        return cls.of(samples, *_padded(texts), *_padded(codes))


def _padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(part) for part in parts])
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True), lengths


def _audio(
    samples: Sequence[AudioSample], num_samples: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return waveforms, lengths and mels of a batch."""
    lengths = [len(sample.waveform) for sample in samples]
    waveform = _stack([sample.waveform for sample in samples], max(num_samples, *lengths))
    mels = [sample.mel for sample in samples if sample.mel is not None]
    stacked = torch.from_numpy(np.stack(mels)) if mels else None
    return waveform, torch.tensor(lengths), stacked


def _stack(waveforms: Sequence[np.ndarray], num_samples: int) -> Tensor:
    """Join waveforms to (batch, num_samples): int16 if all are, else float32."""
    are_integers = all(waveform.dtype == np.int16 for waveform in waveforms)
    dtype = torch.int16 if are_integers else torch.float32
    stacked = _zeros((len(waveforms), num_samples), dtype)
    for row, waveform in zip(stacked.numpy(), waveforms, strict=True):
        scale = 1 if waveform.dtype == row.dtype else np.float32(1 / FULL_SCALE)
        np.multiply(waveform, scale, out=row[: len(waveform)])
    return stacked


def _zeros(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return zeros; in a worker they are in shared memory, which saves a copy to the trainer."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.tensor([], dtype=dtype).set_(storage, 0, shape)


def _as_float(tensor: Tensor) -> Tensor:
    return tensor / FULL_SCALE if tensor.dtype == torch.int16 else tensor
