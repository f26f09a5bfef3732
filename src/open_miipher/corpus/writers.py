"""Outputs in the making: a restored file, or a tar shard of restored samples.

One thread adds samples, and has their signals restored; another advances and closes the output.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.io import WAV_BYTE_LIMIT, RefusedName
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row
from open_miipher.corpus.inputs import Audio, Inputs, InputSample
from open_miipher.corpus.line import DistantModel
from open_miipher.corpus.run import Item
from open_miipher.corpus.sample_shard import SampleShard
from open_miipher.restoration import FileSink, Job, MemorySink, Restorer, Source
from open_miipher.restoration.assembler import write_errors
from open_miipher.shards import Sample, StorageError, member_name

_DISK_THREADS = 4  # a disk serves some that wait at once as soon as one


@dataclass(frozen=True, eq=False)
class _Signal:
    """A signal on its way through the restorer.

    Attributes:
        input: what the manifest calls it.
        sink: gets the restored signal.
        job: restores it.
    """

    input: str
    sink: FileSink | MemorySink
    job: Job

    def row(self) -> Row:
        """Return what is recorded of it once it is restored."""
        job, source = self.job, self.job.source
        trust: Row = {}
        if job.trust is not None:
            trust = {"trust": job.trust.score, "trust_reason": job.trust.reason}
            trust["kept_input"] = job.kept_input
        return {
            "seconds": round(source.num_frames / source.sample_rate, 6),
            "duration": round(job.num_samples / job.sample_rate, 6),
            "sample_rate": job.sample_rate,
            "num_frames": job.num_samples,
            "num_channels": job.num_channels,
            "input_sample_rate": source.sample_rate,
            "input_num_frames": source.num_frames,
            "input_num_channels": source.num_channels,
            "mix": None if job.mix is None else job.mix.how,
            "input_level_db": source.level.decibels,
            "output_level_db": self.sink.level.decibels,
            "clipped_samples": self.sink.num_clipped,
            **trust,
            "processing_seconds": round(sum(job.seconds.values()), 3),
        }


@dataclass(frozen=True)
class Setting:
    """What all outputs of a run have in common.

    Attributes:
        restorer: the model and its options.
        output_dir: gets the outputs.
        file_format: of the restored audio.
        threads: where files wait for the disk; None: whoever writes them waits.
    """

    restorer: Restorer
    output_dir: Path
    file_format: FileFormat
    threads: Executor | None = None

    def shape(self, source: Source) -> tuple[int, int, int]:
        """Return the sample rate, frames and channels that an input becomes."""
        return self.restorer.options.output_shape(source, self.restorer.model)

    def distant(self) -> "Setting":
        """Return the same for a process that has not got the model (picklable)."""
        options = self.restorer.options
        return replace(self, restorer=Restorer(DistantModel(self.restorer.model), options))

    def signal(self, audio: Audio, sink: type[FileSink | MemorySink], name: Any) -> _Signal:
        """Have audio restored into a new sink of this name."""
        rate, file_format = self.shape(audio.source)[0], self.file_format
        made = sink(name, rate, file_format.format, file_format.subtype)
        if isinstance(made, FileSink):
            made.threads = self.threads
        return _Signal(audio.input, made, self.restorer.job(audio.source, made, self.output_dir))

    def refusal(self, name: str, source: Source | None) -> str | None:
        """Say why a file of this name cannot hold what an input becomes, or None."""
        sample_rate, _, num_channels = (1, 1, 1) if source is None else self.shape(source)
        return self.file_format.refusal(name, sample_rate, num_channels)

    def num_bytes(self, source: Source) -> float:
        """Estimate the size of what an input becomes."""
        return self.file_format.num_bytes(*self.shape(source)[1:])

    def failed_row(self, item: str, stamp: Any, error: str) -> Row:
        """Return the row of an item that gives nothing."""
        model = self.restorer.model.fingerprint
        row = {"id": item, "stamp": stamp, "input": item, "output": None, "model": model}
        return {**row, "error": error}


@dataclass(frozen=True, eq=False)
class _SampleInWork:
    """A sample: as it came in, and by name in the output what is carried along or restored."""

    sample: InputSample
    members: dict[str, bytes | _Signal]
    refused: tuple[str, str] | None = None  # the input that is to blame, and why

    @property
    def signals(self) -> dict[str, _Signal]:
        return {n: m for n, m in self.members.items() if isinstance(m, _Signal)}

    @property
    def failure(self) -> tuple[str, str] | None:
        failed = (s for s in self.signals.values() if s.job.error is not None)
        return self.refused or next(((s.input, str(s.job.error)) for s in failed), None)


class Output(ABC):
    """An output in the making; its samples are written in their order, as they are restored.

    Args:
        setting: of the run.
        item: which becomes the output.

    Attributes:
        item: as given.
        is_read: set after the last `add`.
        error: why no more samples came, if the input is damaged.
    """

    def __init__(self, setting: Setting, item: Item) -> None:
        self._setting, self.item = setting, item
        self._path = setting.output_dir / item.output
        self._samples: deque[_SampleInWork] = deque()
        self.is_read = False
        self.error: str | None = None

    @property
    def seconds_under_way(self) -> float:
        """Seconds of audio that are restored of what is not written yet."""
        jobs = (signal.job for work in list(self._samples) for signal in work.signals.values())
        return sum(job.num_written / job.sample_rate for job in jobs)

    def add(self, sample: InputSample) -> list[Job]:
        """Take the next sample; returns what is to be restored for it."""
        started = self._start(sample)
        self._samples.append(started)
        return [signal.job for signal in started.signals.values()]

    def advance(self) -> bool:
        """Write what is finished, and say whether that is all.

        Raises:
            WriteError: the disk refuses.
        """
        is_read = self.is_read  # asked first: a sample may come in the meantime
        while self._samples and all(s.job.finished for s in self._samples[0].signals.values()):
            self._write(self._samples.popleft())
        return is_read and not self._samples

    @property
    def is_settled(self) -> bool:
        """Whether `close` need not wait for the disk, once all is written."""
        return True

    @abstractmethod
    def close(self) -> Row:
        """Have the output whole on the disk, under its name, and return its row.

        Raises:
            WriteError: the disk refuses.
        """

    @abstractmethod
    def abort(self) -> None:
        """Leave the output unfinished; the restorer gives up its signals."""

    @abstractmethod
    def _start(self, sample: InputSample) -> _SampleInWork:
        """Have a sample's signals restored."""

    @abstractmethod
    def _write(self, work: _SampleInWork) -> None:
        """Take a sample whose signals are restored."""


class FileOutput(Output):
    """A restored file, of a single sample that has a single member."""

    _restored: _SampleInWork | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the file is on the disk."""
        return all(signal.sink.is_settled for signal in self._signals)

    @property
    def _signals(self) -> Iterable[Any]:
        return () if self._restored is None else self._restored.signals.values()

    def close(self) -> Row:
        """Return the row, once the file is on the disk."""
        item, work, error = self.item, self._restored, self.error
        for signal in self._signals:
            try:
                with write_errors():
                    signal.sink.settle()
            except RefusedName as refused:
                error = str(refused)
        if work is not None and work.failure is not None:
            error = work.failure[1]
        origin = {} if work is None else work.sample.extra
        if work is None or error is not None:
            row = self._setting.failed_row(item.id, item.stamp, error or "nothing was read")
            return {**row, **origin, "seconds": round(item.cost, 6)}
        (signal,) = self._signals
        return {
            "id": item.id,
            "stamp": item.stamp,
            "output_bytes": signal.sink.num_bytes,
            "input": item.id,
            **origin,
            "output": item.output,
            "audio_filepath": item.output,
            **signal.row(),
            "model": self._setting.restorer.model.fingerprint,
            "error": None,
        }

    def abort(self) -> None:
        """Do nothing: there is no more to a file than its signal."""

    def _start(self, sample: InputSample) -> _SampleInWork:
        (audio,) = (a for a in sample.members.values() if isinstance(a, Audio))
        return _SampleInWork(sample, {"": self._setting.signal(audio, FileSink, self._path)})

    def _write(self, work: _SampleInWork) -> None:
        self._restored = work  # the sink has written it


class ShardOutput(Output):
    """A tar shard of samples; it is not made if none of them is restored."""

    def __init__(self, setting: Setting, item: Item) -> None:
        super().__init__(setting, item)
        self._about = {"model": setting.restorer.model.fingerprint}
        self._shard = SampleShard(item, setting.output_dir, self._about)

    def close(self) -> Row:
        """Complete the shard and the list of its samples, and return its row."""
        item, shard = self.item, self._shard.finish(self.error)
        if shard is None:
            return self._setting.failed_row(item.id, item.stamp, str(self._shard.refused))
        return {
            "id": item.id,
            "stamp": item.stamp,
            "output_bytes": shard.num_bytes,
            "input": item.id,
            "output": shard.output,
            **shard.counts,
            "seconds": round(sum(row["seconds"] for row in shard.made), 6),
            "duration": round(sum(row["duration"] for row in shard.made), 6),
            "clipped_samples": sum(row["clipped_samples"] for row in shard.made),
            "num_kept": sum(row.get("kept_input", False) for row in shard.made),
            **self._about,
            "error": shard.error,
        }

    @property
    def seconds_under_way(self) -> float:
        """The same, and those of the samples in the shard."""
        in_shard = list(self._shard.rows)
        return super().seconds_under_way + sum(row.get("seconds", 0) for row in in_shard)

    def abort(self) -> None:
        """Remove the unfinished shard."""
        self._shard.discard()

    def _start(self, sample: InputSample) -> _SampleInWork:
        if sample.error is not None:
            return _SampleInWork(sample, {}, (sample.input, sample.error))
        extension = self._setting.file_format.format
        audio = {n: m for n, m in sample.members.items() if isinstance(m, Audio)}
        names = {name: name for name in sample.members.keys() - audio.keys()}
        for name in sorted(audio, key=lambda name: not name.endswith(extension)):
            names[name] = member_name(name, extension, set(names.values()))
        members: dict[str, bytes | _Signal] = {}
        for name, member in sample.members.items():
            if isinstance(member, bytes):
                members[name] = member
                continue
            problem = self._setting.refusal(names[name], member.source)
            if problem is None and self._setting.num_bytes(member.source) > WAV_BYTE_LIMIT:
                problem = "it would take more than 4 GiB, too much for a member of a shard"
            if problem is not None:
                blame = member.input, f"{printable(member.input)}: {problem}"
                return _SampleInWork(sample, {}, blame)
            members[names[name]] = self._setting.signal(member, MemorySink, member.input)
        return _SampleInWork(sample, members)

    def _write(self, work: _SampleInWork) -> None:
        shard, sample = self._shard, work.sample
        if shard.refused is not None:
            return
        if work.failure is not None:
            shard.list_failed(sample, *work.failure)
            return
        shard.num_carried += 0 if work.signals else len(work.members)
        members = {n: m if isinstance(m, bytes) else m.sink.data for n, m in work.members.items()}
        shard.add(Sample(sample.key, members))
        for name, signal in work.signals.items():
            made = {"audio_filepath": f"{sample.key}.{name}", **signal.row()}
            shard.list_made(sample, signal.input, made)


class _Items(Protocol):
    """Items to do; a `Share`, or what comes to a worker.

    Attributes:
        under_way: is set to what gives the seconds of audio that are restored of what is not
            written yet.
    """

    under_way: Callable[[], float]

    @property
    def stopped(self) -> bool:
        """Whether a signal came."""

    def __iter__(self) -> Iterator[Item]:
        """Give the items."""


def restore_items(
    items: _Items,
    inputs: Inputs,
    setting: Setting,
    restore_jobs: Callable[[Iterable[Job]], Iterator[Job]],
) -> Iterator[Row]:
    """Restore items into outputs, several at once.

    Args:
        items: taken as there is room.
        inputs: open them.
        setting: of the run.
        restore_jobs: restores their signals, and gives each when it is finished.

    Yields:
        A row an item.
    """
    make = ShardOutput if inputs.are_packed else FileOutput
    in_work: list[Output] = []
    items.under_way = lambda: sum(output.seconds_under_way for output in in_work.copy())
    threads = ThreadPoolExecutor(_DISK_THREADS)
    setting = replace(setting, threads=threads)

    def jobs() -> Iterator[Job]:
        for item in items:
            output = make(setting, item)
            in_work.append(output)
            for sample in _samples(inputs, output):
                if items.stopped:
                    return
                yield from output.add(sample)
            output.is_read = True

    def finished(most_waiting: int) -> Iterator[Row]:
        done = [output for output in in_work.copy() if output.advance()]  # one may be added
        waiting = [output for output in done if not output.is_settled]
        late = waiting[: max(0, len(waiting) - most_waiting)]
        for output in done:
            if output in late or output.is_settled:
                yield output.close()
                in_work.remove(output)

    try:
        for _ in restore_jobs(jobs()):
            yield from finished(2 * _DISK_THREADS)
        yield from finished(0)
    finally:
        for output in in_work:
            output.abort()
        threads.shutdown()


def _samples(inputs: Inputs, output: Output) -> Iterator[InputSample]:
    """Yield what is in an item up to its end, or up to where it is damaged."""
    try:
        yield from inputs.open(output.item)
    except StorageError:
        raise  # no fault of the input: the next ones would fare no better
    except UserError as error:
        output.error = str(error)
