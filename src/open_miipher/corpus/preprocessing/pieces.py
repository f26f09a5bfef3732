"""From a recording to pairs of clean and damaged speech, and from those to a shard's samples."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from open_miipher.base.errors import UserError
from open_miipher.corpus.preprocessing.config import PreprocessingData
from open_miipher.corpus.preprocessing.raw_samples import Recording
from open_miipher.corpus.preprocessing.ssl_inputs import ssl_inputs
from open_miipher.degradation import Stage, Trace
from open_miipher.degradation.band import LOW_CUT_SECONDS, low_cut
from open_miipher.shards import (
    CLEAN_MEMBER,
    DAMAGED_MEMBER,
    RATE_MEMBER,
    Sample,
    encode_waveform,
)

SILENCE = 1e-6
"""Peak below which nothing was recorded: to scale that up gives noise, or overflows."""

_LOUDEST = 32767 / 32768  # of what 16 bits can hold


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
    """

    clean: np.ndarray
    damaged: np.ndarray
    name: str
    start: int
    drawn: list[dict[str, Any]]

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
        self._data, self._crops, self._seed, self._degradation = data, crops, seed, degradation

    def pieces(self, recording: Recording, stable_id: str) -> Iterator[tuple[Piece, list[str]]]:
        """Yield the pieces of a recording, each with the stages that failed.

        Raises:
            Unreadable: the recording is damaged.
            UserError: noise or an impulse response has become unreadable.
        """
        entropy = int.from_bytes(sha256(stable_id.encode("utf-8", "surrogateescape")).digest())
        num_samples = recording.num_samples(self._data.sample_rate)
        num_pieces = -(-num_samples // self._data.crop_samples) if self._crops == "all" else 1
        loudest = self._loudest(recording, entropy, num_pieces) if num_pieces > 1 else None
        for number in range(num_pieces):
            rng, span = self._draw(recording, entropy, number)
            try:
                crop = self._read(recording, *span)
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
            yield Piece(clean, damaged, recording.name, span[1], drawn), trace.failures

    def _draw(
        self, recording: Recording, entropy: int, number: int
    ) -> tuple[np.random.Generator, tuple[int, int, int]]:
        """Draw where a piece lies: channel, start, length; gives the generator for the rest."""
        rng = np.random.default_rng((self._seed, entropy, number))
        num_samples = recording.num_samples(self._data.sample_rate)
        longest = self._data.crop_samples
        channel = recording.draw_channel(rng)
        if self._crops == "all":
            start = number * longest
        else:
            start = int(rng.integers(max(0, num_samples - longest) + 1))
        return rng, (channel, start, min(longest, num_samples - start))

    def _loudest(self, recording: Recording, entropy: int, num_pieces: int) -> float:
        """Return the peak over all pieces of a recording, of which one is in memory at a time.

        They get one gain: each by itself, a pause would become as loud as speech. The recording is
        read twice for it; its peak before the low cut would be that of rumble, and not of speech.
        """
        loudest = SILENCE
        for number in range(num_pieces):
            _, span = self._draw(recording, entropy, number)
            try:
                loudest = max(loudest, peak_of(self._read(recording, *span)))
            except UserError:  # told where the piece is made; those before it are
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


def peak_of(waveform: np.ndarray) -> float:
    """Return the peak of a waveform (samples,)."""
    return float(np.abs(waveform).max())


def at_peak(waveform: np.ndarray, peak: float) -> np.ndarray:
    """Scale a waveform (samples,) to a peak; what is as good as silent becomes silence."""
    loudest = np.abs(waveform).max()
    if loudest < SILENCE:
        return np.zeros_like(waveform)
    return waveform * np.float32(peak / loudest)


def within_full_scale(damaged: np.ndarray, drawn: list[dict[str, Any]]) -> np.ndarray:
    """Scale a damaged waveform that 16 bits could not hold.

    Only it: clean speech is as loud in all pieces of a sample, whatever was added to it.

    Args:
        damaged: (samples,) float32.
        drawn: takes the note of the gain, if there is one.
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
        }
        for piece in group
    ]
    members = {
        f"{CLEAN_MEMBER}.{audio_format}": encode_waveform(clean, sample_rate, audio_format),
        f"{DAMAGED_MEMBER}.{audio_format}": encode_waveform(damaged, sample_rate, audio_format),
        RATE_MEMBER: str(sample_rate).encode(),
        "names.json": _json(names),
        "degradations.json": _json([piece.drawn for piece in group]),
    }
    if with_ssl_inputs:
        members["ssl_inputs.npy"] = ssl_inputs(clean, sample_rate)
        members["noisy_ssl_inputs.npy"] = ssl_inputs(damaged, sample_rate)
    return Sample(key, members)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
