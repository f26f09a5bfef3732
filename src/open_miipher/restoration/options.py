"""What a user can ask of restoring."""

from dataclasses import dataclass
from typing import Literal

from open_miipher.audio.chunking import ChunkGrid
from open_miipher.base.errors import report
from open_miipher.restoration.chain import Model

LEVELS = ("match-input", "peak", "none")
NORMALISE_OVER = ("file", "chunk")
SAMPLE_RATES = (1000, 768_000)


@dataclass(frozen=True)
class RestoreOptions:
    """All that changes what comes out.

    Attributes:
        sample_rate: of the output: the model's, the input's, or Hz.
        channels: mix to one channel, or restore each by itself.
        level: `match-input`: speech as loud as in the input; `peak`: the whole output at a fixed
            peak; `none`: as the model gives it.
        strength: share of the restored signal; the rest is the input.
        chunk_seconds: how much the model sees at once.
        overlap_seconds: shared by neighbouring chunks.
        normalise_over: what an encoder that normalises what it hears takes mean and variance of:
            the whole `file`, in a first pass, or each `chunk`. Many encoders do not normalise, and
            a file of one chunk comes out the same.
        seed: of the noise that the vocoder starts from.

    Raises:
        UserError: on construction, naming every bad value.
    """

    sample_rate: int | Literal["model", "input"] = "model"
    channels: Literal["mono", "each"] = "mono"
    level: Literal["match-input", "peak", "none"] = "match-input"
    strength: float = 1.0
    chunk_seconds: float = 20.0
    overlap_seconds: float = 2.0
    normalise_over: Literal["file", "chunk"] = "file"
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = SAMPLE_RATES
        rate = self.sample_rate
        known_rate = rate in ("model", "input") if isinstance(rate, str) else low <= rate <= high
        rules = [
            (known_rate, f"sample rate {rate!r}: choose model, input or {low} to {high} Hz"),
            (self.channels in ("mono", "each"), f"channels {self.channels!r}: choose mono or each"),
            (self.level in LEVELS, f"level {self.level!r}: choose one of {', '.join(LEVELS)}"),
            (0 <= self.strength <= 1, f"strength {self.strength}: choose 0 to 1"),
            (0 < self.chunk_seconds < float("inf"), f"chunk of {self.chunk_seconds} s: too short"),
            (
                0 <= 2 * self.overlap_seconds <= self.chunk_seconds,
                f"overlap of {self.overlap_seconds} s: choose 0 to half a chunk "
                f"({self.chunk_seconds / 2:g} s)",
            ),
            (
                self.normalise_over in NORMALISE_OVER,
                f"normalise over {self.normalise_over!r}: choose {' or '.join(NORMALISE_OVER)}",
            ),
            (0 <= self.seed < 2**63, f"seed {self.seed}: choose 0 or more"),
        ]
        report([problem for fine, problem in rules if not fine])

    def grid(self, model: Model) -> ChunkGrid:
        """Return the chunks in the model's feature frames."""
        return ChunkGrid.from_seconds(
            self.chunk_seconds, self.overlap_seconds, model.input_rate / model.input_hop
        )

    def output_rate(self, input_rate: int, model: Model) -> int:
        """Return the output's sample rate in Hz for an input of `input_rate` Hz."""
        if self.sample_rate == "input":
            return input_rate
        return model.output_rate if self.sample_rate == "model" else self.sample_rate
