"""An output shard in the making: samples go in in their order, as they are restored."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from open_miipher.base.paths import printable
from open_miipher.corpus.restoring.samples import InputSample
from open_miipher.corpus.restoring.signal import Signal
from open_miipher.corpus.rows import Row
from open_miipher.restoration import MemorySink, WriteError
from open_miipher.shards import Sample, ShardWriter


@dataclass(frozen=True, eq=False)
class RestoredMember:
    """A member that is being restored: what the manifest calls its input, signal, and data."""

    input: str
    signal: Signal
    sink: MemorySink


Failure = tuple[str, str]
"""What the manifest calls the input that is to blame, and why it failed."""


@dataclass(frozen=True, eq=False)
class SampleInWork:
    """A sample whose members are being restored.

    Attributes:
        sample: as it came in.
        members: by name in the output, in order; bytes are carried along.
        refused: why it cannot be restored, if that was known before.
    """

    sample: InputSample
    members: dict[str, bytes | RestoredMember]
    refused: Failure | None

    @property
    def restored(self) -> dict[str, RestoredMember]:
        """The members that are being restored."""
        return {n: m for n, m in self.members.items() if isinstance(m, RestoredMember)}

    @property
    def is_finished(self) -> bool:
        """Whether nothing more happens to it."""
        return all(member.signal.job.finished for member in self.restored.values())

    def failure(self) -> Failure | None:
        """Say why it failed, or None."""
        failed = (m for m in self.restored.values() if m.signal.job.error is not None)
        first = next(((m.input, str(m.signal.job.error)) for m in failed), None)
        return self.refused or first


class OutputShard:
    """A shard that is being written; one thread adds samples, another writes them.

    Args:
        path: of the shard, which has its folder when the first sample is written.
        output: what the manifest calls it.
        model: what restores.

    Attributes:
        rows: what became of each sample so far.
        is_read: set after the last `add`.
        error: why no more samples came, if the input is damaged.
    """

    def __init__(self, path: Path, output: str, model: str) -> None:
        self._path, self._output, self._model = path, output, model
        self._writer: ShardWriter | None = None
        self._samples: deque[SampleInWork] = deque()
        self.rows: list[Row] = []
        self.is_read = False
        self.error: str | None = None

    def add(self, sample: SampleInWork) -> None:
        """Take the next sample, in work or already failed."""
        self._samples.append(sample)

    def advance(self) -> bool:
        """Write what is finished, and say whether that is all.

        Raises:
            WriteError: the disk refuses.
        """
        is_read = self.is_read  # asked first: a sample may come in the meantime
        while self._samples and self._samples[0].is_finished:
            self._write(self._samples.popleft())
        return is_read and not self._samples

    def close(self) -> bool:
        """Have the shard whole on the disk, under its name.

        Returns:
            Whether there is one; one without samples is not made.

        Raises:
            WriteError: the disk refuses.
        """
        if self._writer is None:
            return False
        with self._writing():
            self._writer.__exit__(None, None, None)
        return True

    def abort(self) -> None:
        """Remove the unfinished shard."""
        if self._writer is not None:
            self._writer.__exit__(WriteError, WriteError("given up"), None)

    def _write(self, sample: SampleInWork) -> None:
        failure = sample.failure()
        if failure is not None:
            self.rows.append(self._row(sample, *failure))
            return
        members = {
            name: member if isinstance(member, bytes) else member.sink.data
            for name, member in sample.members.items()
        }
        with self._writing():
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = ShardWriter(self._path)
            self._writer.add(Sample(sample.sample.key, members))
        for name, member in sample.restored.items():
            made = {"audio_filepath": f"{sample.sample.key}.{name}", **member.signal.row()}
            self.rows.append(self._row(sample, member.input, None, made))

    def _row(
        self, sample: SampleInWork, input: str, error: str | None, made: Row | None = None
    ) -> Row:
        return {
            **sample.sample.extra,
            "input": input,
            "output": self._output if made else None,
            "key": sample.sample.key,
            **(made or {}),
            "model": self._model,
            "error": error,
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"{printable(self._path)} cannot be written: {error.strerror}"
            ) from error
