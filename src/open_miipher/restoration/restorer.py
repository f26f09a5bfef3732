"""Restore speech from Python: arrays in, arrays out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.restoration.chain import Chain, Model
from open_miipher.restoration.job import Job, RestoreOptions
from open_miipher.restoration.pipeline import restore_jobs
from open_miipher.restoration.streams import ArraySink, PeakSink, Sink, Source

Waveform = TypeVar("Waveform", np.ndarray, Tensor)


class Restorer:
    """A model with options of restoration.

    Args:
        model: restores chunks.
        options: of the restoration; by default, each channel of an array is restored separately.
        batch_size: the most chunks that the model restores at once.

    Raises:
        UserError: the options do not fit the model.
    """

    def __init__(
        self, model: Model, options: RestoreOptions | None = None, batch_size: int = 4
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: choose 1 or more")
        self.model = model
        self.options = options or RestoreOptions(channels="each")
        self.batch_size = batch_size
        self.options.grid(model)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Checkpoint,
        options: RestoreOptions | None = None,
        batch_size: int = 4,
        device: torch.device | str | None = None,
        amp: Literal["bf16", "no"] = "no",
        ema: bool = True,
        encoder_source: str | None = None,
    ) -> "Restorer":
        """Load a trained chain.

        Args:
            path: a stage-3 checkpoint folder, its run's output directory, or an open checkpoint.
            options: of the restoration.
            batch_size: the most chunks that the model restores at once.
            device: by default, a GPU if there is one.
            amp: bf16 computes in mixed precision.
            ema: load the moving average of the weights if the checkpoint has one.
            encoder_source: path or name of the base encoder, if it has moved since training.

        Raises:
            UserError: the checkpoint does not hold a complete chain, or the options do not fit it.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chain = Chain.from_checkpoint(path, device, amp, ema, encoder_source)
        return cls(chain, options, batch_size)

    def restore(self, waveform: Waveform, sample_rate: int) -> tuple[Waveform, int]:
        """Restore one waveform of any length.

        Args:
            waveform: (samples,) or (channels, samples) of floats, full scale ±1; array or tensor.
            sample_rate: in Hz.

        Returns:
            The restored waveform, an array or tensor like the input with as many dimensions,
            float32, and its sample rate in Hz.

        Raises:
            UserError: the waveform is empty, or has another shape, integers, NaN or Inf; or the
                model fails.
        """
        samples = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else waveform
        channels = _checked(samples, sample_rate)
        job = self.job(Source.from_array(channels, sample_rate), sink := ArraySink())
        for _ in self.restore_jobs([job]):
            if job.error is not None:
                raise job.error
        restored = sink.waveform if samples.ndim == 2 else sink.waveform[0]
        if isinstance(waveform, Tensor):
            return torch.from_numpy(restored).to(waveform.device), job.sample_rate
        return restored, job.sample_rate

    def job(self, source: Source, sink: Sink, directory: Path | None = None) -> Job:
        """Describe the restoration of one signal.

        Args:
            source: of the input.
            sink: for the output.
            directory: where `level=peak` may create an unnamed temporary file.
        """
        if self.options.level == "peak":
            sink = PeakSink(sink, directory)
        return Job(source, sink, self.model, self.options)

    def restore_jobs(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Restore many signals (see `pipeline.restore_jobs`)."""
        return restore_jobs(jobs, self.model, self.batch_size)


def _checked(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the waveform as (channels, samples)."""
    if waveform.ndim not in (1, 2) or not waveform.size:
        raise UserError(
            f"a waveform of shape {waveform.shape}: give (samples,) or (channels, samples), "
            "at least one sample"
        )
    if not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(f"a waveform of {waveform.dtype}: give floats, full scale ±1")
    if not np.isfinite(waveform).all():
        raise UserError("the waveform holds NaN or Inf")
    if sample_rate < 1:
        raise UserError(f"sample rate {sample_rate}: give a number of Hz above 0")
    return np.atleast_2d(waveform)
