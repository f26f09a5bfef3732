"""The options of restoration, and one signal to restore, cut into chunks for the model."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from open_miipher.audio.chunking import ChunkGrid, Tap
from open_miipher.audio.formats import is_number, whole_rate
from open_miipher.audio.level import SpeechLevel, speech_gains
from open_miipher.audio.mixing import Mix
from open_miipher.audio.resample import num_output_frames
from open_miipher.audio.voices import check_voices
from open_miipher.base.errors import UserError, report
from open_miipher.restoration.chain import Model
from open_miipher.restoration.streams import Sink, Source
from open_miipher.restoration.trust import Trust

LEVELS = ("match-input", "peak", "none")
NORMALISE_OVER = ("file", "chunk", "past")
PAST_SECONDS = 600.0
"""How far back `normalise_over="past"` looks, to within a chunk."""


@dataclass(frozen=True)
class RestoreOptions:
    """All options that change the output, and how trust is measured.

    Attributes:
        sample_rate: of the output: the model's, the input's, or a number in Hz.
        channels: mix to one channel (see `audio.mixing`), or restore each channel separately.
        level: `match-input`: speech as loud as in the input; `peak`: the whole output at a fixed
            peak; `none`: the level that the model gives.
        strength: share of the restored signal in the output; the rest is the input.
        chunk_seconds: length of what the model sees at once.
        overlap_seconds: length of the overlap of neighbouring chunks.
        normalise_over: an encoder that normalises its input takes mean and variance over the whole
            `file`, in a first pass, or over each `chunk`. Makes no difference for the many encoders
            that do not normalise, and for files of one chunk. With `past`, there is no first pass
            for the level of the speech either: a chunk is brought to its level by what was heard
            up to its end, at most in the last `PAST_SECONDS`. So a stream can be restored.
        seed: of the noise that the vocoder starts from.
        trust: measure how far the output can be trusted (`restoration.trust`); None: a corpus run
            does where that costs little, and nothing else does.
        trust_speaker: measure it, and ask a network too whether the speaker is the same
            (`audio.voices`).
        min_trust: an output that is trusted less is replaced by the input, at the output's rate;
            0 keeps all. Needs `trust`.

    Raises:
        UserError: on construction: a value is wrong; the message lists all of them. Or the package
            of `trust_speaker` is not installed.
    """

    sample_rate: int | Literal["model", "input"] = "model"
    channels: Literal["mono", "each"] = "mono"
    level: Literal["match-input", "peak", "none"] = "match-input"
    strength: float = 1.0
    chunk_seconds: float = 20.0
    overlap_seconds: float = 2.0
    normalise_over: Literal["file", "chunk", "past"] = "file"
    seed: int = 0
    trust: bool | None = None
    trust_speaker: bool = False
    min_trust: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.strength, self.chunk_seconds, self.overlap_seconds, self.min_trust)
        report([f"{n!r}: give a number" for n in numbers if not is_number(n)])
        rate_problem = self._take_rate()
        rules = [
            (not rate_problem, rate_problem),
            (self.channels in ("mono", "each"), f"channels {self.channels!r}: choose mono or each"),
            (self.level in LEVELS, f"level {self.level!r}: choose one of {', '.join(LEVELS)}"),
            (0 <= self.strength <= 1, f"strength {self.strength}: choose 0 to 1"),
            (
                0 < self.chunk_seconds < float("inf"),
                f"chunk of {self.chunk_seconds} s: choose a finite number above 0",
            ),
            (
                0 <= 2 * self.overlap_seconds <= self.chunk_seconds,
                f"overlap of {self.overlap_seconds} s: choose 0 to half a chunk "
                f"({self.chunk_seconds / 2:g} s)",
            ),
            (
                self.normalise_over in NORMALISE_OVER,
                f"normalise over {self.normalise_over!r}: choose file or chunk, or past",
            ),
            (
                isinstance(self.seed, int) and 0 <= self.seed < 2**63,
                f"seed {self.seed}: choose a whole number, 0 or more",
            ),
            (
                0 <= self.min_trust <= 1,
                f"least trust {self.min_trust}: choose 0 (keep every output) to 1",
            ),
            (
                self.min_trust == 0 or self.trust is not False,
                f"least trust {self.min_trust}: trust is not measured; leave out one of the two",
            ),
            (
                not self.trust_speaker or self.trust is not False,
                "the speaker is a part of trust, which is not measured; leave out one of the two",
            ),
        ]
        report([problem for fine, problem in rules if not fine])
        if self.trust_speaker:
            check_voices()

    def _take_rate(self) -> str:
        """Have a number of Hz as an int; say what is wrong with the sample rate, if anything."""
        if self.sample_rate in ("model", "input"):
            return ""
        try:
            object.__setattr__(self, "sample_rate", whole_rate(self.sample_rate))
        except UserError as error:
            return f"{error}; or model, or input"
        return ""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data of all that changes the output."""
        plain = asdict(self)
        del plain["trust"]
        if not (self.min_trust and self.trust_speaker):
            del plain["trust_speaker"]
        if not self.min_trust:
            del plain["min_trust"]  # runs of before there was one go on
        return plain

    @property
    def measures_trust(self) -> bool:
        """Whether trust is measured, once it is known what model restores."""
        return self.trust is True or self.trust_speaker or self.min_trust > 0

    def grid(self, model: Model) -> ChunkGrid:
        """Return where the chunks are, in the model's feature frames."""
        return ChunkGrid.from_seconds(
            self.chunk_seconds, self.overlap_seconds, model.input_rate / model.input_hop
        )

    def output_rate(self, input_rate: int, model: Model) -> int:
        """Return the output's sample rate in Hz for an input of `input_rate` Hz."""
        if self.sample_rate == "input":
            return input_rate
        return model.output_rate if self.sample_rate == "model" else self.sample_rate

    def output_shape(self, source: Source, model: Model) -> tuple[int, int, int]:
        """Return the sample rate in Hz, frames and channels that an input becomes."""
        rate = self.output_rate(source.sample_rate, model)
        num_frames = num_output_frames(source.num_frames, source.sample_rate, rate)
        return rate, num_frames, 1 if self.channels == "mono" else source.num_channels


KEPT_SAMPLES = 1 << 24
"""A signal up to this size (64 MiB; 17 minutes of one channel at 16 kHz) stays in memory after its
first pass, which measures it; a longer one is read again."""


@dataclass(eq=False)
class ModelChunk:
    """A chunk as the model gets it, and what it gives back.

    Attributes:
        waveform: (channels, frames * input_hop) float32 at the model's input rate.
        num_samples: of the waveform before the padding with zeros.
        start: of its output in the whole output, in samples at the model's output rate.
        gains: (channels,) of what the model is given, so that its speech has always one level.
        statistics: (channels, numbers) of the whole signal, to normalise by; None: the chunk is
            normalised by its own.
        seed: of the noise that the model starts from.
        to_restore: indices of the channels that the model has still to restore; digital silence
            needs no model.
        restored: (channels, frames * output_hop) float32, zero until the model has restored it.
        seconds: that the model took, its share of the batches'.
    """

    waveform: np.ndarray
    num_samples: int
    start: int
    gains: np.ndarray
    statistics: Tensor | None
    seed: int
    to_restore: list[int]
    restored: np.ndarray
    seconds: float = field(default=0.0, init=False)


@dataclass(eq=False)
class Chunk(ModelChunk):
    """A chunk of a job, with all its channels.

    Attributes:
        job: that it belongs to.
        index: of the chunk in the job, counted from 0.
        last: whether it is the job's last one.
    """

    job: "Job"
    index: int
    last: bool


@dataclass(eq=False)
class Job:
    """One signal to restore.

    Attributes:
        source: of the input.
        sink: for the output.
        model: restores the chunks.
        options: of the restoration.
        error: why the job failed, if it did.
        finished: whether the job is done: its output is complete, or it failed.
        num_written: frames of the output that went to the sink so far.
        seconds: wall time spent on the job, by stage: measure, read, model, level, write, trust.
        mix: how the source's channels become one, once it is read; None if they are not mixed.
        trust: in the restored signal, once it is whole; None if it is not measured.
        kept_input: whether the output is the input, as the restored signal is trusted too little.
    """

    source: Source
    sink: Sink
    model: Model
    options: RestoreOptions
    error: Exception | None = None
    finished: bool = False
    num_written: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    mix: Mix | None = None
    trust: Trust | None = None
    kept_input: bool = False

    def __post_init__(self) -> None:
        model, source = self.model, self.source
        self.grid = self.options.grid(model)
        self.mono = self.options.channels == "mono"
        shape = self.options.output_shape(source, model)
        self.sample_rate, self.num_samples, self.num_channels = shape
        num_input = num_output_frames(source.num_frames, source.sample_rate, model.input_rate)
        self.num_model_frames = -(-num_input // model.input_hop)
        self._is_kept = num_input * self.num_channels <= KEPT_SAMPLES

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to that of a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def chunks(self) -> Iterator[Chunk]:
        """Read the source and cut it into chunks.

        Raises:
            AudioError: the source cannot be read.
        """
        cutter = Cutter(self, *self._opened())
        num_chunks = self.grid.num_chunks(self.num_model_frames)
        for number in range(1, num_chunks + 1):
            with self.timed("read"):
                chunk = cutter.cut(last=number == num_chunks)
            yield chunk

    def _blocks(self) -> Iterator[np.ndarray]:
        return self.source.resampled(self.model.input_rate, self.mono)

    def _needs_statistics(self) -> bool:
        return (
            self.model.needs_statistics
            and self.options.normalise_over == "file"
            and self.grid.num_chunks(self.num_model_frames) > 1  # else chunk and file are the same
        )

    def _opened(self) -> tuple[Iterator[np.ndarray], np.ndarray | None, Tensor | None]:
        """Measure the source; return its blocks from its start, gains and statistics if needed."""
        if self.mono and self.source.num_channels > 1:
            with self.timed("measure"):
                self.mix = self.source.mix
        if self.options.strength == 0:
            return self._blocks(), np.ones(self.num_channels, np.float32), None  # no model is asked
        if self.options.normalise_over == "past":
            return self._blocks(), None, None
        blocks = self._blocks
        if self._is_kept:
            with self.timed("read"):
                kept = list(blocks())
            blocks = partial(iter, kept)
        with self.timed("measure"):
            gains = speech_gains(blocks(), self.model.input_rate)
            if not self._needs_statistics():
                return blocks(), gains, None
            scaled = (gains[:, None] * block for block in blocks())
            return blocks(), gains, self.model.measure(scaled)


class Cutter:
    """Cuts a job's signal into its chunks, in order.

    Args:
        job: that the chunks belong to.
        blocks: of its source at the model's input rate, each (channels, n); they are taken when
            they are needed.
        gains: (channels,) of all chunks; None: each chunk's by the level up to its end.
        statistics: of all chunks, if the model needs them.
    """

    def __init__(
        self,
        job: Job,
        blocks: Iterator[np.ndarray],
        gains: np.ndarray | None = None,
        statistics: Tensor | None = None,
    ) -> None:
        self.num_cut = 0
        self._job, self._gains, self._statistics = job, gains, statistics
        self._tap = Tap(blocks, job.num_channels)
        self._past = SpeechLevel(job.model.input_rate, PAST_SECONDS)

    def cut(self, last: bool) -> Chunk:
        """Return the next chunk; only the `last` one may be shorter than the others."""
        job, model, grid = self._job, self._job.model, self._job.grid
        waveform = self._tap.peek(grid.chunk_frames * model.input_hop)
        self._tap.drop(grid.hop_frames * model.input_hop)
        num_samples = waveform.shape[1]
        num_frames = -(-num_samples // model.input_hop)
        padding = num_frames * model.input_hop - num_samples
        speaks = [c for c, row in enumerate(waveform) if row.any() and job.options.strength > 0]
        chunk = Chunk(
            waveform=np.pad(waveform, ((0, 0), (0, padding))) if padding else waveform,
            num_samples=num_samples,
            start=self.num_cut * grid.hop_frames * model.output_hop,
            gains=self._gains_of(waveform),
            statistics=self._statistics,
            seed=job.options.seed,
            to_restore=speaks,
            restored=np.zeros((job.num_channels, num_frames * model.output_hop), np.float32),
            job=job,
            index=self.num_cut,
            last=last,
        )
        self.num_cut += 1
        return chunk

    def _gains_of(self, waveform: np.ndarray) -> np.ndarray:
        if self._gains is not None:
            return self._gains
        heard = self._job.grid.overlap_frames * self._job.model.input_hop if self.num_cut else 0
        self._past.add(waveform[:, heard:])  # the rest was a part of the chunk before it
        return self._past.gains()
