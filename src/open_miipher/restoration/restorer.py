"""Restore speech: arrays in and arrays out, or many signals at once through one model.

Reading, the model and writing work at the same time, and chunks of several signals share a batch.
"""

import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.io import LARGEST_SAMPLE, AudioError, probe
from open_miipher.base.errors import UserError, notice
from open_miipher.base.paths import printable
from open_miipher.checkpoint import Checkpoint
from open_miipher.exporting import Contents, check_upload, export_folder, fetch, upload
from open_miipher.restoration.assembler import Assembler
from open_miipher.restoration.batches import restore_chunks
from open_miipher.restoration.chain import DEFAULT_MODEL, Chain, Model
from open_miipher.restoration.job import Chunk, Job, RestoreOptions
from open_miipher.restoration.streaming import Stream
from open_miipher.restoration.streams import ArraySink, FileSink, PeakSink, Sink, Source
from open_miipher.restoration.trial import CPU_BATCH, Trial, suited_amp, try_batches

Waveform = TypeVar("Waveform", np.ndarray, Tensor)

MOST_CHANNELS = 8
"""A waveform with more channels than this has more samples than channels, or is the other way
round."""


class Restorer:
    """A model with options of restoration.

    Printed, it says which model that is, and of which checkpoint.

    Args:
        model: restores chunks.
        options: of the restoration; by default, several channels become one.
        batch_size: the most chunks that the model restores at once.

    Attributes:
        trial: that the batch size was found by, if there was one.

    Raises:
        UserError: the options do not fit the model.
    """

    trial: Trial | None = None

    def __init__(
        self, model: Model, options: RestoreOptions | None = None, batch_size: int = CPU_BATCH
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch size {batch_size!r}: choose a whole number, 1 or more")
        self.model = model
        self.options = options or RestoreOptions()
        self._says_that_it_mixes = options is None
        self.batch_size = batch_size
        self.options.grid(model)

    def __str__(self) -> str:
        return f"model {self.model}" + (f", in {self.trial}" if self.trial else "")

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | Checkpoint = DEFAULT_MODEL,
        options: RestoreOptions | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        amp: Literal["bf16", "no"] | None = None,
        ema: bool = True,
        encoder_source: str | None = None,
    ) -> "Restorer":
        """Load a trained chain.

        Args:
            path: a checkpoint folder of a whole chain, its run's output directory, or an open
                checkpoint; by default the model that comes with the project.
            options: of the restoration.
            batch_size: the most chunks that the model restores at once; by default, what a trial
                of some seconds finds on a GPU, and 1 on a CPU.
            device: by default, a GPU if there is one.
            amp: see `Chain`; by default bf16 on GPUs that compute in it, and no elsewhere.
            ema: load the moving average of the weights if the checkpoint has one.
            encoder_source: path or name of the base encoder, if it has moved since training.

        Raises:
            UserError: the checkpoint does not hold a complete chain, the options do not fit it, or
            there is no such device.
        """
        where = _device(device)
        if amp not in (None, "no", "bf16"):
            raise UserError(f"amp {amp!r}: choose no or bf16")
        amp = amp or suited_amp(where)
        chain = Chain.from_checkpoint(path, where, amp, ema, encoder_source)
        if batch_size is not None or where.type != "cuda":
            return cls(chain, options, CPU_BATCH if batch_size is None else batch_size)
        trial = try_batches(chain, (options or RestoreOptions()).grid(chain))
        restorer = cls(chain, options, trial.batch_size)
        restorer.trial = trial
        return restorer

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        options: RestoreOptions | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        amp: Literal["bf16", "no"] | None = None,
        encoder_source: str | None = None,
        revision: str | None = None,
    ) -> "Restorer":
        """Load a chain from a folder or the hub (see `from_checkpoint`); no code in it is run.

        Args:
            source: a folder, or an id on the hub such as `user/name`.
            options: of the restoration.
            batch_size: the most chunks that the model restores at once.
            device: by default, a GPU if there is one.
            amp: see `Chain`.
            encoder_source: path or name of the base encoder, in place of the one named there.
            revision: branch, tag or commit on the hub; None: the newest.

        Raises:
            UserError: there is no such folder or model, the hub cannot be reached, or see
            `from_checkpoint`.
        """
        path = fetch(str(source), revision)
        return cls.from_checkpoint(path, options, batch_size, device, amp, True, encoder_source)

    def save_pretrained(self, folder: str | Path, contents: Contents | None = None) -> Path:
        """Write a folder for `from_pretrained`, with only what restoring needs, and a model card.

        Args:
            folder: must be new, or empty.
            contents: what it holds besides; by default, the weights that this restorer has.

        Returns:
            The folder.

        Raises:
            UserError: the model is not from a checkpoint, or see `exporting.export_folder`.
        """
        chain = self.model
        if not isinstance(chain, Chain) or chain.checkpoint is None:
            raise UserError("this restorer's model is not from a checkpoint: nothing can be saved")
        contents = contents or Contents(average=chain.averaged)
        return export_folder(chain.checkpoint, Path(folder), contents)

    def push_to_hub(
        self, name: str, private: bool = False, contents: Contents | None = None
    ) -> str:
        """Upload what `save_pretrained` writes.

        Args:
            name: id on the hub, `user/name`.
            private: make a new repository private.
            contents: see `save_pretrained`.

        Returns:
            The address of its page.

        Raises:
            UserError: no token, no right to write there, the hub cannot be reached, or see
            `save_pretrained`.
        """
        check_upload(name)
        averaged = isinstance(self.model, Chain) and self.model.averaged
        contents = replace(contents or Contents(average=averaged), name=name)
        with tempfile.TemporaryDirectory() as folder:
            return upload(self.save_pretrained(folder, contents), name, private)

    def restore(self, waveform: Waveform, sample_rate: int) -> tuple[Waveform, int]:
        """Restore one waveform of any length.

        Args:
            waveform: (samples,) or (channels, samples) of floats, full scale ±1; array or tensor.
            sample_rate: in Hz, a whole number.

        Returns:
            The restored waveform, an array or tensor like the input with as many dimensions,
            float32, and its sample rate in Hz. With the option `channels="mono"`, the default, it
            has one channel; who did not choose is told so. Where trust is measured and low, a
            notice says why, and whether the input was kept.

        Raises:
            UserError: the waveform is empty, or has another shape (such as samples first),
                integers, NaN or Inf; the sample rate is none; or the model fails.
        """
        samples = _as_array(waveform)
        source = Source.from_array(_checked(samples), sample_rate)
        if source.num_channels > 1 and self._says_that_it_mixes:
            notice(
                f"{source.num_channels} channels are mixed to one, the default; "
                'RestoreOptions(channels="each") restores each'
            )
        job = self.job(source, sink := ArraySink())
        for _ in self.restore_jobs([job], alone=True):
            if job.error is not None:
                raise job.error
            _tell_doubts(job)
        restored = sink.waveform if samples.ndim == 2 else sink.waveform[0]
        if isinstance(waveform, Tensor):
            return torch.from_numpy(restored).to(waveform.device), job.sample_rate
        return restored, job.sample_rate

    def stream(self, sample_rate: int) -> Stream:
        """Begin to restore a signal that comes in block by block (see `Stream`).

        Args:
            sample_rate: of the blocks, in Hz, a whole number.

        Raises:
            UserError: the sample rate is none, or the options need the whole signal.
        """
        return Stream(self.model, self.options, sample_rate, self.batch_size)

    def restore_file(
        self, source: str | Path, output: str | Path, file_format: FileFormat | None = None
    ) -> FileSink:
        """Restore one file of any length into another, in constant memory.

        Where trust is measured and low, a notice says why, and whether the input was kept.

        Args:
            source: an audio file.
            output: gets its name when it is complete; a file of that name is replaced.
            file_format: of the output, whatever its name ends in; by default wav of 16 bits.

        Returns:
            What wrote the output: how loud it is, and how many samples were clipped.

        Raises:
            UserError: the source cannot be read, the output cannot be written or cannot hold what
                the source becomes, or the model fails.
        """
        file_format, output = file_format or FileFormat(), Path(output)
        read = Source.from_file(source, probe(source))
        rate, _, num_channels = self.options.output_shape(read, self.model)
        refusal = file_format.refusal(output.name, rate, num_channels)
        if refusal is not None:
            raise UserError(f"{printable(output)}: {refusal}")
        sink = FileSink(output, rate, file_format.format, file_format.subtype)
        for job in self.restore_jobs([self.job(read, sink, output.parent)], alone=True):
            if job.error is not None:
                raise job.error
            _tell_doubts(job)
        return sink

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

    def decide_on_trust(self) -> None:
        """Have trust measured where it was not said whether, and where it costs little."""
        if self.options.trust is None:
            trust = self.model.is_light or self.options.measures_trust
            self.options = replace(self.options, trust=trust)

    def restore_jobs(self, jobs: Iterable[Job], alone: bool = False) -> Iterator[Job]:
        """Restore many signals (see `restore_jobs`)."""
        return restore_jobs(jobs, self.model, self.batch_size, alone)


def _tell_doubts(job: Job) -> None:
    if job.trust is not None and (job.trust.reason is not None or job.kept_input):
        kept = ["the input was kept"] if job.kept_input else []
        doubts = "; ".join([job.trust.reason or "nothing found", *kept])
        notice(f"{job.source.name}: trust {job.trust.score:.2f}: {doubts}")


def _device(name: torch.device | str | None) -> torch.device:
    """Return a device; by default, a GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device {name!r}: choose cpu or cuda") from error
    if device.type == "cuda" and not has_gpu:
        raise UserError(f"device {str(name)!r}: no usable GPU is here; src/doctor.py says why")
    return device


def _as_array(waveform: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().cpu()
        # there is no bfloat16 in numpy
        return (waveform.float() if waveform.is_floating_point() else waveform).numpy()
    if not isinstance(waveform, np.ndarray):
        raise UserError(f"a waveform of type {type(waveform).__name__}: give an array or a tensor")
    return waveform


def _checked(waveform: np.ndarray) -> np.ndarray:
    """Return the waveform as (channels, samples)."""
    if waveform.ndim not in (1, 2) or not waveform.size:
        raise UserError(
            f"a waveform of shape {waveform.shape}: give (samples,) or (channels, samples), "
            "at least one sample"
        )
    if not np.issubdtype(waveform.dtype, np.floating):
        raise UserError(f"a waveform of {waveform.dtype}: give floats, full scale ±1")
    if waveform.ndim == 2 and len(waveform) > max(MOST_CHANNELS, waveform.shape[1]):
        raise UserError(
            f"a waveform of shape {waveform.shape} has more channels than samples: channels come "
            "first; soundfile gives (samples, channels), so give waveform.T"
        )
    if not (np.abs(waveform) <= LARGEST_SAMPLE).all():
        raise UserError(f"the waveform holds NaN or Inf, or numbers beyond {LARGEST_SAMPLE:.0e}")
    return np.atleast_2d(waveform)


T = TypeVar("T")


def restore_jobs(
    jobs: Iterable[Job], model: Model, batch_size: int, alone: bool = False
) -> Iterator[Job]:
    """Restore signals, several at once.

    A batch has chunks of any jobs, of like lengths (see `batches`); no result depends on the rest
    of its batch.

    Args:
        jobs: taken one by one, when there is room.
        model: restores a batch.
        batch_size: the most channels of chunks in a batch.
        alone: nothing else is restored like these (see `restore_chunks`).

    Yields:
        Each job when it is finished, or has failed (`job.error`: its source cannot be read, or the
        model gave NaN or Inf).

    Raises:
        WriteError: an output cannot be written.
        UserError: the GPU's memory is too small for a chunk.
    """
    chunks = in_background(read_chunks(jobs), depth=2 * batch_size)
    restored = in_background(restore_chunks(chunks, model, batch_size, alone), depth=2)
    with closing(chunks), closing(restored):
        yield from assemble(restored)


def assemble(items: Iterable[Chunk | Job]) -> Iterator[Job]:
    """Join restored chunks, of many jobs in any order, and write what they become.

    Args:
        items: restored chunks, and jobs whose source cannot be read further.

    Yields:
        As `restore_jobs`, whose errors it raises.
    """
    assemblers: dict[Job, Assembler] = {}
    try:
        for item in items:
            job = item.job if isinstance(item, Chunk) else item
            if job.finished:
                continue
            if job not in assemblers:
                assemblers[job] = Assembler(job)
            _advance(assemblers[job], item)
            if job.finished:
                del assemblers[job]
                yield job
    finally:
        for job in assemblers:
            job.sink.abort()


def _advance(assembler: Assembler, item: Chunk | Job) -> None:
    job = assembler.job
    try:
        if isinstance(item, Chunk):
            job.finished = assembler.accept(item)
            return
    except AudioError as error:
        job.error = error
    job.finished = True
    job.sink.abort()


def in_background(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of the caller."""
    end = object()
    thread = ThreadPoolExecutor(max_workers=1)
    try:
        ahead = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)


def read_chunks(jobs: Iterable[Job]) -> Iterator[Chunk | Job]:
    """Yield the jobs' chunks; for a job whose source cannot be read further, the job itself."""
    for job in jobs:
        try:
            for chunk in job.chunks():
                yield chunk
                if job.error is not None:
                    break
        except AudioError as error:
            job.error = error
            yield job
