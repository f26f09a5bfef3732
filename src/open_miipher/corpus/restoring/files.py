"""Restore recordings, files or segments of files, into a file each."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from open_miipher.audio.io import AudioError
from open_miipher.base.paths import printable
from open_miipher.corpus.naming import Assign, assign_names
from open_miipher.corpus.restoring.file_format import FileFormat
from open_miipher.corpus.restoring.outputs import Restoration
from open_miipher.corpus.restoring.recordings import Details, Recordings
from open_miipher.corpus.restoring.signal import Signal
from open_miipher.corpus.rows import Row
from open_miipher.corpus.run import Item, Share
from open_miipher.restoration import FileSink, Job, Restorer


class RestoreFiles(Restoration):
    """The corpus run that restores every recording into a file of its own.

    Args:
        restorer: the model and its options.
        recordings: the inputs.
        output_dir: gets the inputs' folders and names.
        file_format: of the outputs.

    Raises:
        UserError: see `Recordings.check`.
    """

    def __init__(
        self,
        restorer: Restorer,
        recordings: Recordings,
        output_dir: Path,
        file_format: FileFormat,
    ) -> None:
        recordings.check(output_dir)
        super().__init__(restorer, output_dir, file_format)
        self._recordings = recordings

    def process(self, items: Share) -> Iterator[Row]:
        """Restore the items of one rank (see `corpus.run.Task`)."""
        waiting: dict[Job, tuple[Item, Signal]] = {}

        def jobs() -> Iterator[Job]:
            for item in items:
                rate = self._restorer.options.output_rate(
                    item.details.info.sample_rate, self._restorer.model
                )
                path = self._output_dir / item.output
                sink = FileSink(path, rate, self._format.format, self._format.subtype)
                source = item.details.source()
                signal = Signal.start(self._restorer, source, sink, self._output_dir)
                waiting[signal.job] = item, signal
                yield signal.job

        for job in self._restorer.restore_jobs(jobs()):
            yield self._row(*waiting.pop(job))

    def _find(self) -> Sequence[str]:
        return self._recordings.ids()

    def _assign(self) -> tuple[str, Assign]:
        return self._format.format, partial(assign_names, wanted=self._recordings.wanted)

    def _items(self, names: dict[str, str]) -> dict[str, str]:
        return names

    def _stamp(self, item: str) -> list[int] | None:
        return self._recordings.recording(item).stamp

    def _look(self, item: str, output: str, stamp: Any) -> Item | Row:
        recording = self._recordings.recording(item)
        try:
            details = Details.of(recording, stamp)
        except AudioError as error:
            return {**self._failed_row(item, stamp, str(error)), **recording.origin}
        sample_rate, _, num_channels = self._shape(details.info, details.num_frames)
        refusal = self._format.refusal(output, sample_rate, num_channels)
        if refusal is not None:
            row = self._failed_row(item, stamp, f"{printable(item)}: {refusal}")
            return {**row, **recording.origin}
        return Item(item, output, details.seconds, details)

    def _num_bytes(self, item: Item) -> float:
        _, frames, channels = self._shape(item.details.info, item.details.num_frames)
        return self._format.num_bytes(frames, channels)

    def _listed(self, line: Row) -> Row:
        return {**self._recordings.extra(line["input"]), **line}

    def _row(self, item: Item, signal: Signal) -> Row:
        job, details = signal.job, item.details
        if job.error is not None:
            failed = self._failed_row(item.id, details.stamp, str(job.error))
            return {**failed, **details.recording.origin, "seconds": round(item.seconds, 6)}
        return {
            "id": item.id,
            "stamp": details.stamp,
            "output_bytes": (self._output_dir / item.output).stat().st_size,
            "input": item.id,
            **details.recording.origin,
            "output": item.output,
            "audio_filepath": item.output,
            **signal.row(),
            "model": self.identity["model"],
            "error": None,
        }
