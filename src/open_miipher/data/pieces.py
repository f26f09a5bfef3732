"""From a recording to pairs of clean and damaged speech, and from those to a shard's samples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from open_miipher.audio.level import SILENCE, at_peak, peak_of
from open_miipher.audio.recording import Recording
from open_miipher.base.errors import UserError
from open_miipher.base.plain import as_json
from open_miipher.data.config import PreprocessingData
from open_miipher.degradation import Stage, Trace
from open_miipher.degradation.band import LOW_CUT_SECONDS, low_cut
from open_miipher.encoders.front_ends import ssl_inputs
from open_miipher.shards import (
    CLEAN_MEMBER,
    DAMAGED_MEMBER,
    RATE_MEMBER,
    Sample,
    encode_waveform,
)

_LOUDEST = 32767 / 32768  # of what 16 bits can hold

Span = tuple[int, int, int]
"""Channel, first sample and length, at the pair's rate."""


class Unreadable(UserError):
    """A recording that cannot be read; the message names it."""


@dataclass(frozen=True)
class Piece:
    """A crop of a recording and what the degradations made of it.

    Attributes:
        clean: (samples,) float32, the target.
        damaged: (samples,) float32, aligned with it.
        name: of the recording.
        start: place of its first sample in the recording, at the pair's rate.
        drawn: the stages that damaged it and their parameters, in order.
        channel: of the recording, where pieces of several channels are made.
    """

    clean: np.ndarray
    damaged: np.ndarray
    name: str
    start: int
    drawn: list[dict[str, Any]]
    channel: int | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def split(self, place: int) -> tuple["Piece", "Piece"]:
        """Cut into what lies before a place and the rest, either of which may be empty."""
        return (
            replace(self, clean=self.clean[:place], damaged=self.damaged[:place]),
            replace(
                self,
                clean=self.clean[place:],
                damaged=self.damaged[place:],
                start=self.start + place,
            ),
        )


class PieceMaker:
    """Crops and damages recordings; all is drawn from a seed and the recording's id.

    Args:
        data: rate, crops, what comes before the degradations.
        crops: `random` for one crop of every recording, `all` for all of it.
        seed: 0 or more.
        degradation: what damages the crops.
    """

    def __init__(
        self,
        data: PreprocessingData,
        crops: Literal["random", "all"],
        seed: int,
        degradation: Stage,
    ) -> None:
        self._data, self._takes_all = data, crops == "all"
        self._seed, self._degradation = seed, degradation

    def pieces(self, recording: Recording, stable_id: str) -> Iterator[tuple[Piece, list[str]]]:
        """Yield the pieces of a recording, each with the stages that failed.

        With `all`, one channel comes after the other, each from its start to its end.

        Raises:
            Unreadable: the recording is damaged.
            UserError: noise or an impulse response has become unreadable.
        """
        entropy = int.from_bytes(sha256(stable_id.encode("utf-8", "surrogateescape")).digest())
        spans = self._spans(recording) if self._takes_all else [None]
        loudest = self._loudest(recording, spans) if len(spans) > 1 else None
        names_channel = self._takes_all and recording.info.num_channels > 1
        for number, span in enumerate(spans):
            rng = np.random.default_rng((self._seed, entropy, number))
            channel, start, length = span or self._draw(recording, rng)
            try:
                crop = self._read(recording, channel, start, length)
            except UserError as error:
                raise Unreadable(str(error)) from error
            own = peak_of(crop)
            level = self._data.peak * (1.0 if loudest is None else own / max(own, loudest))
            clean = at_peak(crop, level)
            trace = Trace(clean)
            damaged = self._degradation(clean, rng, trace)
            if trace.target is not clean:  # reverb moved it, and changed its level
                clean = at_peak(trace.target, level)
            drawn = list(trace.drawn)
            damaged = within_full_scale(damaged, drawn)
            named = channel if names_channel else None
            yield Piece(clean, damaged, recording.name, start, drawn, named), trace.failures

    def _spans(self, recording: Recording) -> list[Span | None]:
        """Return all of a recording, cut into crops, one channel after the other."""
        num_samples = recording.num_samples(self._data.sample_rate)
        longest = self._data.crop_samples
        return [
            (channel, start, min(longest, num_samples - start))
            for channel in range(recording.info.num_channels)
            for start in range(0, num_samples, longest)
        ]

    def _draw(self, recording: Recording, rng: np.random.Generator) -> Span:
        """Draw a crop."""
        num_samples = recording.num_samples(self._data.sample_rate)
        length = min(self._data.crop_samples, num_samples)
        channel = recording.draw_channel(rng)
        return channel, int(rng.integers(num_samples - length + 1)), length

    def _loudest(self, recording: Recording, spans: Iterable[Span | None]) -> float:
        """Return the peak over all pieces of a recording, of which one is in memory at a time.

        They get one gain: each by itself, a pause would become as loud as speech. The recording is
        read twice for it, because its peak before the low cut would be that of rumble.
        """
        loudest = SILENCE
        for span in filter(None, spans):
            try:
                loudest = max(loudest, peak_of(self._read(recording, *span)))
            except UserError:  # reported where the piece is made, after those before it
                break
        return loudest

    def _read(self, recording: Recording, channel: int, start: int, num_samples: int) -> np.ndarray:
        """Read a span as if the whole recording had gone through the low cut."""
        rate, cutoff = self._data.sample_rate, self._data.low_cut_hz
        margin = 0 if cutoff is None else round(LOW_CUT_SECONDS * rate)
        first = max(0, start - margin)
        end = min(recording.num_samples(rate), start + num_samples + margin)
        span = recording.read(channel, first, end - first, rate)
        if cutoff is not None:
            span = low_cut(span, rate, cutoff)
        return span[start - first :][:num_samples]


def within_full_scale(damaged: np.ndarray, drawn: list[dict[str, Any]]) -> np.ndarray:
    """Scale a damaged waveform (samples,) that 16 bits could not hold, and note it in `drawn`.

    Only it: clean speech is as loud in all pieces of a sample, whatever was added to it.
    """
    loudest = peak_of(damaged)
    if loudest <= _LOUDEST:
        return damaged
    gain = _LOUDEST / loudest
    drawn.append({"name": "level", "gain_db": 20 * float(np.log10(gain))})
    return damaged * np.float32(gain)


def pack(pieces: Iterable[Piece], num_samples: int) -> Iterator[list[Piece]]:
    """Join pieces to groups of exactly `num_samples`; only the last group may be shorter.

    A piece that crosses the end of a group goes on in the next one, so that nothing is lost.
    """
    group: list[Piece] = []
    room = num_samples
    for piece in pieces:
        while len(piece) > 0:
            part, piece = piece.split(min(room, len(piece)))
            group.append(part)
            room -= len(part)
            if room == 0:
                yield group
                group, room = [], num_samples
    if group:
        yield group


def to_sample(
    key: str,
    group: Sequence[Piece],
    sample_rate: int,
    audio_format: str,
    with_ssl_inputs: bool = False,
) -> Sample:
    """Make a shard's sample of the pieces that stand one behind the other in it."""
    clean, damaged = (
        np.concatenate([getattr(piece, name) for piece in group]) for name in ("clean", "damaged")
    )
    names = [
        {
            "name": piece.name,
            "start_seconds": round(piece.start / sample_rate, 6),
            "seconds": round(len(piece) / sample_rate, 6),
            **({} if piece.channel is None else {"channel": piece.channel}),
        }
        for piece in group
    ]
    members = {
        f"{CLEAN_MEMBER}.{audio_format}": encode_waveform(clean, sample_rate, audio_format),
        f"{DAMAGED_MEMBER}.{audio_format}": encode_waveform(damaged, sample_rate, audio_format),
        RATE_MEMBER: str(sample_rate).encode(),
        "names.json": as_json(names),
        "degradations.json": as_json([piece.drawn for piece in group]),
    }
    if with_ssl_inputs:
        members["ssl_inputs.npy"] = ssl_inputs(clean, sample_rate)
        members["noisy_ssl_inputs.npy"] = ssl_inputs(damaged, sample_rate)
    return Sample(key, members)
