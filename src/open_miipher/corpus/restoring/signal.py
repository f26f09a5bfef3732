"""One signal on its way through the restorer, and what is recorded of it."""

from dataclasses import dataclass
from pathlib import Path

from open_miipher.corpus.restoring.levels import Level, MeasuredSink, measured
from open_miipher.corpus.rows import Row
from open_miipher.restoration import EncodingSink, Job, Restorer, Source


@dataclass(frozen=True, eq=False)
class Signal:
    """A signal that is being restored.

    Attributes:
        job: of the restorer.
        input_level: of what was read.
        sink: with the level of what was written.
    """

    job: Job
    input_level: Level
    sink: MeasuredSink

    @classmethod
    def start(
        cls, restorer: Restorer, source: Source, sink: EncodingSink, directory: Path
    ) -> "Signal":
        """Describe the restoration of a source into a sink.

        Args:
            restorer: the model and its options.
            source: the input.
            sink: takes the output.
            directory: where `level=peak` may put a nameless temporary file.
        """
        level, measured_sink = Level(), MeasuredSink(sink)
        job = restorer.job(measured(source, level), measured_sink, directory)
        return cls(job, level, measured_sink)

    @property
    def seconds(self) -> float:
        """Audio in the input."""
        return self.job.source.num_frames / self.job.source.sample_rate

    def row(self) -> Row:
        """Return what is recorded of it once it is restored."""
        job, source = self.job, self.job.source
        return {
            "seconds": round(self.seconds, 6),
            "duration": round(job.num_samples / job.sample_rate, 6),
            "sample_rate": job.sample_rate,
            "num_frames": job.num_samples,
            "num_channels": job.num_channels,
            "input_sample_rate": source.sample_rate,
            "input_num_frames": source.num_frames,
            "input_num_channels": source.num_channels,
            "input_level_db": self.input_level.decibels,
            "output_level_db": self.sink.level.decibels,
            "clipped_samples": self.sink.num_clipped,
            "processing_seconds": round(sum(job.seconds.values()), 3),
        }
