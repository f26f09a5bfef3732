"""Restore a directory of recordings into another one."""

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioError, AudioInfo, printable, probe
from open_miipher.audio.resample import num_output_frames
from open_miipher.corpus.file_format import FileFormat
from open_miipher.corpus.ledger import Ledger, Row, write_atomically
from open_miipher.corpus.naming import assign_names
from open_miipher.corpus.run import Item, Plan
from open_miipher.errors import UserError
from open_miipher.index import find_audio
from open_miipher.restoration import FileSink, Job, Restorer, Source

MANIFEST_NAME = "manifest.jsonl"
_PRIVATE = ("run", "id", "stamp", "output_bytes")  # the ledger's own business
_PROBE_THREADS = 16
_TEMPORARY = re.compile(r"\..+\.\d+(\.plain)?\.tmp")  # as AudioWriter names them


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
        names, new = self._names(found, ledger)
        ledger.add_names(new)
        plan = self._look(found, names, ledger.rows())
        left = [item.id for item in plan.items] + [row["id"] for row in plan.failed]
        remove_leftovers({(self._output_dir / names[i]).parent for i in left})
        problem = self._lack_of_room(plan)
        if problem is not None:
            raise UserError(problem)
        return plan

    def preview(self, overwrite: bool) -> tuple[str, bool]:
        """Say what a run would do, and write nothing.

        Returns:
            Lines for the user, and whether all would go well.

        Raises:
            UserError: as `plan`, but for the lack of room, which the lines tell.
        """
        ledger = Ledger(self._output_dir)
        if not overwrite:
            ledger.check(self.identity)
        found = self._find()
        names, _ = self._names(found, ledger)
        plan = self._look(found, names, {} if overwrite else ledger.rows())
        hours = math.fsum(item.seconds for item in plan.items) / 3600
        lines = [
            f"files:       {len(found)} ({plan.num_done} done before, {len(plan.items)} to "
            f"restore, {len(plan.failed)} unreadable)",
            f"hours:       {hours:.4f} to restore",
            f"output:      about {self._num_bytes(plan) / 1e6:.1f} MB to come in "
            f"{printable(self._output_dir)}",
        ]
        lines += [f"unreadable:  {row['error']}" for row in plan.failed]
        problem = self._lack_of_room(plan)
        lines += [] if problem is None else [f"error: {problem}"]
        return "\n".join(lines), problem is None and not plan.failed

    def process(self, items: Iterator[Item]) -> Iterator[Row]:
        """Restore the items of one rank (see `corpus.run.Task`)."""
        waiting: dict[Job, tuple[Item, FileSink]] = {}

        def jobs() -> Iterator[Job]:
            for item in items:
                source = Source.from_file(self._input_dir / item.id, item.details.info)
                path = self._output_dir / item.output
                rate = self._shape(item.details.info)[0]
                sink = FileSink(path, rate, self._format.format, self._format.subtype)
                job = self._restorer.job(source, sink, self._output_dir)
                waiting[job] = item, sink
                yield job

        for job in self._restorer.restore_jobs(jobs()):
            item, sink = waiting.pop(job)
            yield self._row(item, job, sink.num_clipped)

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the manifest: one line an input, sorted."""
        public = [{k: v for k, v in row.items() if k not in _PRIVATE} for row in rows]
        public.sort(key=lambda row: row["input"])
        write_atomically(self._output_dir / MANIFEST_NAME, map(json.dumps, public))

    def _find(self) -> list[str]:
        found = find_audio(self._input_dir)
        if not found:
            raise UserError(
                f"{printable(self._input_dir)} holds no audio files ({', '.join(AUDIO_EXTENSIONS)})"
            )
        return found

    def _names(self, found: list[str], ledger: Ledger) -> tuple[dict[str, str], dict[str, str]]:
        """Return the outputs of all inputs, and those among them that are new."""
        given = ledger.names(self._format.format)
        new = assign_names(found, given, self._format.format)
        return {**given, **new}, new

    def _look(self, found: list[str], names: dict[str, str], rows: dict[str, Row]) -> Plan:
        """Tell what is done from what is left, and probe what is left."""

        def look(item: str) -> Item | Row | None:
            stamp = _stamp(self._input_dir / item)
            if self._is_done(rows.get(item), stamp, names[item]):
                return None
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

        with ThreadPoolExecutor(_PROBE_THREADS) as threads:
            looked_at = list(threads.map(look, found))
        items = [item for item in looked_at if isinstance(item, Item)]
        before = [(rows[item.id], item) for item in items if item.id in rows]
        return Plan(
            items,
            [row for row in looked_at if isinstance(row, dict)],
            num_done=looked_at.count(None),
            num_changed=sum(
                row["error"] is None and row["stamp"] != item.details.stamp for row, item in before
            ),
        )

    def _is_done(self, row: Row | None, stamp: list[int] | None, name: str) -> bool:
        if row is None or row["error"] is not None or row["stamp"] != stamp:
            return False
        output = self._output_dir / name
        return output.is_file() and output.stat().st_size == row["output_bytes"]

    def _row(self, item: Item, job: Job, num_clipped: int) -> Row:
        if job.error is not None:
            return self._failed_row(item.id, item.details.stamp, str(job.error))
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
            "clipped_samples": num_clipped,
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
        return math.fsum(self._format.num_bytes(frames, channels) for _, frames, channels in shapes)

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


def remove_leftovers(directories: Iterable[Path]) -> None:
    """Remove the temporary files of killed runs; only the owner of the directories may."""
    for directory in directories:
        if directory.is_dir():
            for path in directory.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink()


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # a link to nowhere: probing it will tell
    return [status.st_size, status.st_mtime_ns]
