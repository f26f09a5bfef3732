"""A tar shard in the making, with the list of what became of its samples."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from open_miipher.base.atomic import name_refusal
from open_miipher.base.paths import printable
from open_miipher.base.rows import Row
from open_miipher.corpus.inputs import InputSample
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.run import Item
from open_miipher.restoration import WriteError
from open_miipher.shards import Sample, ShardWriter


@dataclass(frozen=True)
class FinishedShard:
    """What is recorded of a shard.

    Attributes:
        made: rows of the samples that it holds; without any, there is no file.
        output: its name; None without a file.
        num_bytes: of the file.
        counts: of the samples that it holds and that failed, and of members carried along.
        error: why samples are missing.
    """

    made: list[Row]
    output: str | None
    num_bytes: int | None
    counts: dict[str, int]
    error: str | None


class SampleShard:
    """A tar shard in the making, and the list of its samples; it is not made if none of them is.

    Args:
        item: which becomes the shard.
        output_dir: of the run.
        about: what the row of every sample says besides.

    Attributes:
        rows: of the samples so far.
        num_carried: members of samples without audio.
        refused: why its file system takes no file of its name; then nothing more is added.
    """

    def __init__(self, item: Item, output_dir: Path, about: Mapping[str, str]) -> None:
        self.rows: list[Row] = []
        self.num_carried = 0
        self.refused: str | None = None
        self._item, self._output_dir, self._about = item, output_dir, about
        self._path = output_dir / item.output
        self._writer: ShardWriter | None = None

    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            WriteError: the disk refuses.
        """
        with self._writing():
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = ShardWriter(self._path)
            self._writer.add(sample)

    def list_made(self, sample: InputSample, input: str, made: Row) -> None:
        """Record what became of an input that is in the shard."""
        known = {**sample.extra, "input": input, "output": self._item.output, "key": sample.key}
        self.rows.append({**known, **made, **self._about, "error": None})

    def list_failed(self, sample: InputSample, input: str, error: str) -> None:
        """Record why a sample is not in the shard, and which of its inputs is to blame."""
        known = {**sample.extra, "input": input, "output": None, "key": sample.key}
        self.rows.append({**known, **self._about, "error": error})

    def finish(self, error: str | None) -> FinishedShard | None:
        """Have the shard and the list of its samples whole on the disk.

        Args:
            error: why no more samples came, if the input is damaged.

        Returns:
            What is recorded of it; None if its name is `refused`.

        Raises:
            WriteError: the disk refuses.
        """
        rows, name = list(self.rows), printable(self._item.id)
        if not rows and error is None:
            rest = f", but {self.num_carried} other members" if self.num_carried else ""
            error = f"{name} holds no audio{rest}"
        if error is not None:
            rows.append({"input": self._item.id, "output": None, **self._about, "error": error})
        failed = [row["error"] for row in self.rows if row["error"] is not None]
        made = [row for row in self.rows if row["error"] is None]
        if failed:
            lost = f"{len(failed)} samples of {name} failed: {failed[0]}"
            error = lost if error is None else f"{error}; {lost}"
        if self.refused is None:
            with self._writing():
                Ledger(self._output_dir).write_samples(self._item.id, rows)
                if made and self._writer is not None:
                    self._writer.finish()
        if self.refused is not None or not made:
            self.discard()
        if self.refused is not None:
            return None
        counts = {"num_samples": len({row["key"] for row in made}), "num_failed": len(failed)}
        counts["num_carried"] = self.num_carried
        num_bytes = self._path.stat().st_size if made else None
        return FinishedShard(made, self._item.output if made else None, num_bytes, counts, error)

    def discard(self) -> None:
        """Remove the file if it is not finished."""
        if self._writer is not None:
            self._writer.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            refusal = name_refusal(error)
            if refusal is None:
                what = printable(error.filename or self._path)
                raise WriteError(f"{what} cannot be written: {error.strerror}") from error
            self.refused = f"{printable(self._path)} cannot be written: {refusal}"
