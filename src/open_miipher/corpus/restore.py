"""Restore a directory of recordings into another one."""

import json
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioError, AudioInfo, printable, probe
from open_miipher.audio.resample import num_output_frames
from open_miipher.corpus.file_format import FileFormat
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.leftovers import remove_leftovers
from open_miipher.corpus.levels import Level, MeasuredSink, measured
from open_miipher.corpus.naming import assign_names
from open_miipher.corpus.rows import Row, write_atomically
from open_miipher.corpus.run import Item, Plan
from open_miipher.corpus.shard import Shard
from open_miipher.corpus.threads import map_in_threads
from open_miipher.errors import UserError
from open_miipher.index import find_audio
from open_miipher.restoration import FileSink, Job, Restorer, Source

MANIFEST_NAME = "manifest.jsonl"
PRIVATE = ("run", "time", "id", "stamp", "output_bytes")
"""Keys of a row that are the ledger's own business."""

_PROBE_THREADS = 16
_DONE, _FAILED = "done", "failed"  # before


@dataclass(frozen=True)
class Details:
    """What is known of an input.

    Attributes:
        info: its header.
        stamp: its size in bytes and time of change in ns, to notice that it changed.
    """

    info: AudioInfo
    stamp: list[int] | None


class RestoreDirectory:
    """The corpus run that restores every recording under a directory (a `corpus.run.Task`).

    Args:
        restorer: the model and its options.
        input_dir: only read; a metadata.csv in it is not needed and not used.
        output_dir: gets the same folders and names.
        file_format: of the outputs.

    Attributes:
        identity: the model and all that changes what comes out.

    Raises:
        UserError: see `check_directories`.
    """

    def __init__(
        self, restorer: Restorer, input_dir: Path, output_dir: Path, file_format: FileFormat
    ) -> None:
        check_directories(input_dir, output_dir)
        self._restorer, self._format = restorer, file_format
        self._input_dir, self._output_dir = input_dir, output_dir
        self.identity: Mapping[str, Any] = {
            "model": restorer.model.fingerprint,
            **asdict(restorer.options),
            **asdict(file_format),
        }

    def plan(self, ledger: Ledger) -> Plan:
        """Find the inputs that are left, fix the outputs' names, and clear up after killed runs.

        Raises:
            UserError: there is nothing to restore, or the disk has no room for what will come.
        """
        found = self._find()
        names = ledger.name_all(found, self._format.format)
        plan = self._look(found, names, ledger)
        left = [item.id for item in plan.items] + [row["id"] for row in plan.failed]
        remove_leftovers(self._output_dir / names[item] for item in left)
        problem = self._lack_of_room(plan)
        if problem is not None:
            raise UserError(problem)
        return plan

    def preview(self, overwrite: bool, shard: Shard | None = None) -> tuple[str, bool]:
        """Say what a run would do, and write nothing.

        Returns:
            Lines for the user, and whether all would go well.

        Raises:
            UserError: as `plan`, but for the lack of room, which the lines tell.
        """
        ledger = Ledger(self._output_dir, shard)
        if not overwrite:
            ledger.check(self.identity)
        found = self._find()
        given = ledger.names(self._format.format)
        names = {**given, **assign_names(found, given, self._format.format)}
        plan = self._look(found, names, ledger, from_nothing=overwrite)
        num_own = plan.num_done + plan.num_failed + len(plan.items) + len(plan.failed)
        lines = [
            f"files:       {num_own} ({plan.num_done} done before, {len(plan.items)} to "
            f"restore, {len(plan.failed)} unreadable, {plan.num_failed} failed before)",
            f"hours:       {plan.seconds / 3600:.4f} to restore",
            f"output:      about {self._num_bytes(plan) / 1e6:.1f} MB to come in "
            f"{printable(self._output_dir)}",
        ]
        lines += [f"unreadable:  {row['error']}" for row in plan.failed]
        problem = self._lack_of_room(plan)
        lines += [] if problem is None else [f"error: {problem}"]
        return "\n".join(lines), problem is None and not plan.failed and not plan.num_failed

    def process(self, items: Iterator[Item]) -> Iterator[Row]:
        """Restore the items of one rank (see `corpus.run.Task`)."""
        waiting: dict[Job, tuple[Item, Level, MeasuredSink]] = {}

        def jobs() -> Iterator[Job]:
            for item in items:
                source = Source.from_file(self._input_dir / item.id, item.details.info)
                path = self._output_dir / item.output
                rate = self._shape(item.details.info)[0]
                sink = MeasuredSink(FileSink(path, rate, self._format.format, self._format.subtype))
                level = Level()
                job = self._restorer.job(measured(source, level), sink, self._output_dir)
                waiting[job] = item, level, sink
                yield job

        for job in self._restorer.restore_jobs(jobs()):
            yield self._row(job, *waiting.pop(job))

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest: one line an input, sorted as the rows are."""
        public = ({k: v for k, v in row.items() if k not in PRIVATE} for row in rows)
        write_atomically(self._output_dir / MANIFEST_NAME, map(json.dumps, public))

    def _find(self) -> list[str]:
        found = find_audio(self._input_dir)
        if not found:
            raise UserError(
                f"{printable(self._input_dir)} holds no audio files ({', '.join(AUDIO_EXTENSIONS)})"
            )
        return found

    def _look(
        self,
        found: list[str],
        names: Mapping[str, str],
        ledger: Ledger,
        from_nothing: bool = False,
    ) -> Plan:
        """Tell what is done, or cannot be, from what is left, and probe what is left."""
        own = found if ledger.shard is None else ledger.shard.own(found)
        known = ("error", "stamp", "output_bytes")
        rows = {} if from_nothing else ledger.rows(set(own), known)

        def look(item: str) -> Item | Row | str:
            stamp = _stamp(self._input_dir / item)
            outcome = self._outcome(rows.get(item), stamp, names[item])
            if outcome is not None:
                return outcome
            try:
                info = probe(self._input_dir / item)
            except AudioError as error:
                return self._failed_row(item, stamp, str(error))
            sample_rate, _, num_channels = self._shape(info)
            refusal = self._format.refusal(names[item], sample_rate, num_channels)
            if refusal is not None:
                return self._failed_row(item, stamp, f"{printable(item)}: {refusal}")
            seconds = info.num_frames / info.sample_rate
            return Item(item, names[item], seconds, Details(info, stamp))

        looked_at = list(map_in_threads(look, own, _PROBE_THREADS))
        items = [item for item in looked_at if isinstance(item, Item)]
        return Plan(
            items,
            [row for row in looked_at if isinstance(row, dict)],
            num_done=looked_at.count(_DONE),
            num_failed=looked_at.count(_FAILED),
            num_changed=sum(
                item.id in rows and rows[item.id]["stamp"] != item.details.stamp for item in items
            ),
            num_inputs=len(found),
        )

    def _outcome(self, row: Row | None, stamp: list[int] | None, name: str) -> str | None:
        """Say whether an input is done or failed before; None if it is to be looked at."""
        if row is None or row["stamp"] != stamp:
            return None
        if row["error"] is not None:
            return _FAILED
        try:
            status = (self._output_dir / name).stat()
        except OSError:
            return None  # its output is gone
        is_whole = stat.S_ISREG(status.st_mode) and status.st_size == row["output_bytes"]
        return _DONE if is_whole else None

    def _row(self, job: Job, item: Item, input_level: Level, sink: MeasuredSink) -> Row:
        if job.error is not None:
            failed = self._failed_row(item.id, item.details.stamp, str(job.error))
            return {**failed, "seconds": round(item.seconds, 6)}
        info = item.details.info
        return {
            "id": item.id,
            "stamp": item.details.stamp,
            "output_bytes": (self._output_dir / item.output).stat().st_size,
            "input": item.id,
            "output": item.output,
            "audio_filepath": item.output,
            "seconds": round(item.seconds, 6),
            "duration": round(job.num_samples / job.sample_rate, 6),
            "sample_rate": job.sample_rate,
            "num_frames": job.num_samples,
            "num_channels": job.num_channels,
            "input_sample_rate": info.sample_rate,
            "input_num_frames": info.num_frames,
            "input_num_channels": info.num_channels,
            "input_level_db": input_level.decibels,
            "output_level_db": sink.level.decibels,
            "clipped_samples": sink.num_clipped,
            "processing_seconds": round(sum(job.seconds.values()), 3),
            "model": self.identity["model"],
            "error": None,
        }

    def _failed_row(self, item: str, stamp: list[int] | None, error: str) -> Row:
        return {
            "id": item,
            "stamp": stamp,
            "input": item,
            "output": None,
            "model": self.identity["model"],
            "error": error,
        }

    def _shape(self, info: AudioInfo) -> tuple[int, int, int]:
        """Return an output's sample rate, frames and channels."""
        options, model = self._restorer.options, self._restorer.model
        sample_rate = options.output_rate(info.sample_rate, model)
        num_frames = num_output_frames(info.num_frames, info.sample_rate, sample_rate)
        return sample_rate, num_frames, 1 if options.channels == "mono" else info.num_channels

    def _num_bytes(self, plan: Plan) -> float:
        shapes = (self._shape(item.details.info) for item in plan.items)
        return sum(self._format.num_bytes(frames, channels) for _, frames, channels in shapes)

    def _lack_of_room(self, plan: Plan) -> str | None:
        existing = next(
            p for p in (self._output_dir, *self._output_dir.resolve().parents) if p.exists()
        )
        free, needed = shutil.disk_usage(existing).free, self._num_bytes(plan)
        if needed <= free:
            return None
        return (
            f"about {needed / 1e6:.0f} MB will be written to {printable(self._output_dir)}, whose "
            f"disk has {free / 1e6:.0f} MB left; make room, or choose another output directory"
        )


def check_directories(input_dir: Path, output_dir: Path) -> None:
    """Check the two directories of a run, before a model is loaded.

    Raises:
        UserError: the input is not a directory, or one of the two lies inside the other.
    """
    if not input_dir.is_dir():
        raise UserError(f"the input {printable(input_dir)} is not a directory")
    real_input, real_output = input_dir.resolve(), output_dir.resolve()
    if real_output.is_relative_to(real_input) or real_input.is_relative_to(real_output):
        raise UserError(
            f"the output directory {printable(output_dir)} and the input directory "
            f"{printable(input_dir)} lie inside each other; choose another output directory"
        )


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # a link to nowhere: probing it will tell
    return [status.st_size, status.st_mtime_ns]
