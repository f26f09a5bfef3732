"""Restore into tar shards: from shards, or from recordings in groups."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_miipher.audio.io import WAV_BYTE_LIMIT, AudioError, AudioInfo
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.naming import Assign
from open_miipher.corpus.restoring.file_format import FileFormat
from open_miipher.corpus.restoring.outputs import Restoration
from open_miipher.corpus.restoring.samples import Group, InputSample, InputShard, Unrestored
from open_miipher.corpus.restoring.shard_inputs import ShardInputs
from open_miipher.corpus.restoring.shard_output import OutputShard, RestoredMember, SampleInWork
from open_miipher.corpus.restoring.signal import Signal
from open_miipher.corpus.rows import Row
from open_miipher.corpus.run import Item, Plan, Share
from open_miipher.restoration import Job, MemorySink, Restorer, WriteError
from open_miipher.shards import StorageError


@dataclass(frozen=True, eq=False)
class _InWork:
    item: Item
    shard: OutputShard


class RestoreShards(Restoration):
    """The corpus run whose items are output shards.

    The samples of a shard follow each other through the restorer, and those of the next one follow
    at once, so that batches are full; they are written in order, as they come.

    Args:
        restorer: the model and its options.
        inputs: what the shards are made of.
        output_dir: gets the shards.
        file_format: of the restored members.

    Raises:
        UserError: see `ShardInputs.check`.
    """

    unit, failed = "shards", "failed or lack samples that failed"

    def __init__(
        self, restorer: Restorer, inputs: ShardInputs, output_dir: Path, file_format: FileFormat
    ) -> None:
        inputs.check(output_dir)
        super().__init__(restorer, output_dir, file_format, **inputs.identity)
        self._inputs = inputs
        self.is_estimate = inputs.is_estimate

    def process(self, items: Share) -> Iterator[Row]:
        """Restore the items of one rank (see `corpus.run.Task`); a signal gives up half shards."""
        in_work: deque[_InWork] = deque()

        def jobs() -> Iterator[Job]:
            for item in items:
                path = self._output_dir / item.output
                shard = OutputShard(path, item.output, self.identity["model"])
                in_work.append(_InWork(item, shard))
                for sample in self._samples(item.details, shard):
                    if items.stopped:
                        return
                    started = self._start(sample)
                    shard.add(started)
                    yield from (member.signal.job for member in started.restored.values())
                shard.is_read = True

        try:
            for _ in self._restorer.restore_jobs(jobs()):
                yield from self._finished(in_work)
            yield from self._finished(in_work)
        finally:
            for unfinished in in_work:
                unfinished.shard.abort()

    def _samples(self, source: InputShard | Group, shard: OutputShard) -> Iterator[InputSample]:
        """Yield a shard's samples up to its end, or up to where it is damaged."""
        try:
            yield from source.samples(self._format.format)
        except StorageError:
            raise  # no fault of the shard: the next ones would fare no better
        except UserError as error:
            shard.error = str(error)

    def _start(self, sample: InputSample) -> SampleInWork:
        members: dict[str, bytes | RestoredMember] = {}
        for name, member in sample.members.items():
            if isinstance(member, bytes):
                members[name] = member
                continue
            problem = self._refusal(name, member)
            if problem is not None:
                return SampleInWork(sample, {}, (member.input, problem))
            rate = self._restorer.options.output_rate(
                member.source.sample_rate, self._restorer.model
            )
            sink = MemorySink(member.input, rate, self._format.format, self._format.subtype)
            signal = Signal.start(self._restorer, member.source, sink, self._output_dir)
            members[name] = RestoredMember(member.input, signal, sink)
        refused = None if sample.error is None else (sample.input, sample.error)
        return SampleInWork(sample, members, refused)

    def _refusal(self, name: str, member: Unrestored) -> str | None:
        """Say why a member cannot be made, or None."""
        source = member.source
        info = AudioInfo(source.sample_rate, source.num_frames, source.num_channels, "", "")
        rate, num_frames, num_channels = self._shape(info, info.num_frames)
        refusal = self._format.refusal(name, rate, num_channels)
        if refusal is None and self._format.num_bytes(num_frames, num_channels) > WAV_BYTE_LIMIT:
            refusal = "it would take more than 4 GiB, too much for a member of a shard"
        return None if refusal is None else f"{printable(member.input)}: {refusal}"

    def _finished(self, in_work: deque[_InWork]) -> Iterator[Row]:
        """Close the shards, in order, that are complete."""
        while in_work and in_work[0].shard.advance():
            yield self._close(in_work[0])
            in_work.popleft()

    def _close(self, finished: _InWork) -> Row:
        item, shard = finished.item, finished.shard
        if not shard.rows and shard.error is None:
            shard.error = f"{printable(item.id)} holds no samples"
        failed = [row["error"] for row in shard.rows if row["error"] is not None]
        made = [row for row in shard.rows if row["error"] is None]
        error = shard.error
        if failed:
            lost = f"{len(failed)} samples of {printable(item.id)} failed: {failed[0]}"
            error = lost if error is None else f"{error}; {lost}"
        rows = list(shard.rows)
        if shard.error is not None:
            rows.append(self._public_row(item.id, shard.error))
        try:
            Ledger(self._output_dir).write_samples(item.id, rows)
        except OSError as problem:
            raise WriteError(f"the ledger cannot be written: {problem.strerror}") from problem
        path = self._output_dir / item.output
        has_output = shard.close()
        return {
            "id": item.id,
            "stamp": item.details.stamp,
            "output_bytes": path.stat().st_size if has_output else None,
            "input": item.id,
            "output": item.output if has_output else None,
            "num_samples": len({row["key"] for row in made}),
            "num_failed": len(failed),
            "seconds": round(sum(row["seconds"] for row in made), 6),
            "duration": round(sum(row["duration"] for row in made), 6),
            "model": self.identity["model"],
            "error": error,
        }

    def _public_row(self, item: str, error: str) -> Row:
        row = self._failed_row(item, None, error)
        return {name: row[name] for name in ("input", "output", "model", "error")}

    def _find(self) -> Sequence[str]:
        return self._inputs.ids()

    def _assign(self) -> tuple[str, Assign]:
        return "tar", self._inputs.assign

    def _items(self, names: dict[str, str]) -> dict[str, str]:
        return self._inputs.items(names)

    def _stamp(self, item: str) -> Any:
        return self._inputs.stamp(item)

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        refusal = self._format.refusal(output, 1, 1)
        if refusal is not None:
            return self._failed_row(item, stamp, f"{printable(item)}: {refusal}")
        try:
            seconds, details = self._inputs.look(item, stamp)
        except AudioError as error:
            return self._failed_row(item, stamp, str(error))
        return Item(item, output, seconds, details)

    def _num_bytes(self, item: Item) -> float:
        model = self._restorer.model
        rate = self._restorer.options.output_rate(model.input_rate, model)
        return self._format.num_bytes(round(item.seconds * rate), 1)

    def _unreadable(self, plan: Plan) -> list[str]:
        groups = [item.details for item in plan.items if isinstance(item.details, Group)]
        return [
            problem
            for group in groups
            for _, problem in group.recordings.values()
            if isinstance(problem, str)
        ]
