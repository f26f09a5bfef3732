"""How far a restored recording can be trusted, from the recording and what was made of it alone.

Both are looked at as streams, in slices of 10 s, at 16 kHz: where the input has speech, the output
must have the same; where it has none, neither. Noise that went is no fault: before the two are
compared, the input's own noise floor is added to the output. Each part looks for one kind of fault
and keeps its worst moment; a few constants turn that into a probability, and the score is the
lowest of them. docs/trust.md says what the score finds and what it does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from open_miipher.audio.formats import whole_rate
from open_miipher.audio.resample import StreamResampler
from open_miipher.audio.voices import check_voices, likeness
from open_miipher.base.errors import UserError
from open_miipher.restoration.comparison import (
    HOP,
    LAGS,
    RATE,
    VOICED,
    WORDS,
    Comparison,
    analyse,
)
from open_miipher.restoration.streams import steps_between

_SLICE, _STEP = 600 * HOP, 560 * HOP  # 9.6 s, a new one every 9 s
_CLEAR = 0.9  # periodicity of voices with little noise

CALIBRATION = {
    "gone": (8.63, 0.89),
    "added": (7.57, 0.86),
    "voice": (0.51, 19.35),
    "hidden": (0.31, 15.01),
    "band": (9.66, 0.43),
    "speaker": (0.16, 19.2),
}
"""Of each part: the value that is as often good as bad, and how fast good becomes bad there.

Fitted by `benchmarks/trust.py` on failures planted in restored speech of the default model's
training speakers: a logistic regression a part, on the kinds of failure that it is made for, with
six good sounds for each bad one.
"""

_TOLD_BELOW = 0.8  # a file above has no reason
_ALIKE_SECONDS = 0.02  # by which an input and an output may differ in length


@dataclass(frozen=True)
class Trust:
    """What can be said of a restored recording.

    Attributes:
        score: 0 … 1; 1 is as good as certain that speech is as it was.
        reason: the worst that was found and when, in words; None if the score is high.
        parts: the score of each kind of fault.
    """

    score: float
    reason: str | None
    parts: dict[str, float]


@dataclass(frozen=True)
class _Finding:
    value: float
    reason: str


class TrustMeter:
    """Compares an input with what was made of it, while both come in blocks; in constant memory.

    Args:
        input_rate: of the input's blocks, in Hz.
        output_rate: of the output's blocks, in Hz.
        num_channels: of both.
        knows_voices: ask a network too whether the speaker is the same (`audio.voices`).
    """

    def __init__(
        self, input_rate: int, output_rate: int, num_channels: int, knows_voices: bool = False
    ) -> None:
        self._knows_voices = knows_voices
        narrow = output_rate if output_rate < RATE else None  # what it cannot hold is not missed
        steps = steps_between(input_rate, narrow, RATE), steps_between(output_rate, None, RATE)
        self._streams = [_Stream(step, num_channels) for step in steps]
        self._gains = [1.0] * num_channels
        self._next = 0  # sample at which the next slice begins
        self._worst: dict[str, _Finding] = {}

    def push_input(self, block: np.ndarray, last: bool = False) -> None:
        """Take more (channels, n) of the input; the last block must be told."""
        self._streams[0].push(block, last)
        self._advance()

    def push_output(self, block: np.ndarray, last: bool = False) -> None:
        """Take more (channels, n) of the output; the last block must be told."""
        self._streams[1].push(block, last)
        self._advance()

    def finish(self) -> Trust:
        """Return the score of all that was taken."""
        end = min(stream.end for stream in self._streams)
        if self._next == 0 or end > self._next + _SLICE - _STEP:
            self._compare(max(0, end - _SLICE), end)  # the last slice overlaps more than others
        scores = {part: probability(part, found.value) for part, found in self._worst.items()}
        worst = min(scores, key=lambda part: scores[part])
        score = round(scores[worst], 3)
        reason = self._worst[worst].reason if score < _TOLD_BELOW else None
        return Trust(score, reason, {part: round(value, 3) for part, value in scores.items()})

    def values(self) -> dict[str, float]:
        """Return the worst value of each part so far, before calibration."""
        return {part: found.value for part, found in self._worst.items()}

    def _advance(self) -> None:
        while min(stream.end for stream in self._streams) >= self._next + _SLICE:
            self._compare(self._next, self._next + _SLICE)
            self._next += _STEP
            for stream in self._streams:
                stream.drop(self._next - _STEP)  # the last slice may begin here

    def _compare(self, start: int, end: int) -> None:
        pairs = zip(*(stream.cut(start, end) for stream in self._streams), strict=True)
        for channel, (given, made) in enumerate(pairs):
            comparison = Comparison(analyse(given), analyse(made), self._gains[channel])
            self._gains[channel] = comparison.gain
            found = {part: find(comparison, start / RATE) for part, find in PARTS.items()}
            if self._knows_voices:
                found["speaker"] = _speaker(comparison, given, made, start / RATE)
            for part, finding in found.items():
                if part not in self._worst or finding.value > self._worst[part].value:
                    self._worst[part] = finding


def trust_of(
    given: np.ndarray,
    given_rate: int,
    made: np.ndarray,
    made_rate: int,
    knows_voices: bool = False,
) -> Trust:
    """Return how far a restored signal can be trusted.

    Args:
        given: (samples,) or (channels, samples) of floats, the input.
        given_rate: its sample rate in Hz.
        made: (samples,) or (channels, samples) of floats, the output, as long in seconds.
        made_rate: its sample rate in Hz.
        knows_voices: ask a network too whether the speaker is the same.

    Raises:
        UserError: they have different numbers of channels or lengths, no samples, NaN or Inf; or
            the network's package is not installed.
    """
    given, made = np.atleast_2d(given), np.atleast_2d(made)
    lengths = given.shape[1] / whole_rate(given_rate), made.shape[1] / whole_rate(made_rate)
    if len(given) != len(made):
        raise UserError(
            f"an input of {len(given)} channels and an output of {len(made)} cannot be compared: "
            "give both as many"
        )
    if not min(given.size, made.size) or abs(lengths[0] - lengths[1]) > _ALIKE_SECONDS:
        raise UserError(
            f"an input of {lengths[0]:.3f} s and an output of {lengths[1]:.3f} s cannot be "
            "compared: give both as long"
        )
    if not (np.isfinite(given).all() and np.isfinite(made).all()):
        raise UserError("NaN or Inf cannot be compared: give finite numbers")
    if knows_voices:
        check_voices()
    meter = TrustMeter(given_rate, made_rate, len(given), knows_voices)
    meter.push_input(given, last=True)
    meter.push_output(made, last=True)
    return meter.finish()


def probability(part: str, value: float) -> float:
    """Return the probability that a recording whose worst value of a part is this one is good."""
    middle, steepness = CALIBRATION[part]
    whole = 1 + math.exp(-middle * steepness)  # nothing found at all is 1
    return whole / (1 + math.exp(min(steepness * (value - middle), 700.0)))


class _Stream:
    """A signal at `RATE`, of which only the newest part is kept."""

    def __init__(self, steps: list[tuple[int, int]], num_channels: int) -> None:
        self._resamplers = [StreamResampler(*step, num_channels) for step in steps]
        self._kept = np.zeros((num_channels, 0), np.float32)
        self._start = 0

    @property
    def end(self) -> int:
        """Samples that came so far."""
        return self._start + self._kept.shape[1]

    def push(self, block: np.ndarray, last: bool) -> None:
        for resampler in self._resamplers:
            block = resampler.push(block, last)
        self._kept = np.concatenate([self._kept, block], axis=1)

    def drop(self, place: int) -> None:
        if place > self._start:
            self._kept, self._start = self._kept[:, place - self._start :].copy(), place

    def cut(self, start: int, end: int) -> np.ndarray:
        return self._kept[:, start - self._start : end - self._start]


def _gone(slice_: Comparison, start: float) -> _Finding:
    """Look for voiced speech of the input that the output lacks; dB."""
    given, made = slice_.given[:, :WORDS], slice_.made[:, :WORDS]
    # What dies away after something louder is the room's.
    before = np.pad(given, ((15, 0), (0, 0)), mode="edge")
    recent = np.lib.stride_tricks.sliding_window_view(before, 16, axis=0).max(axis=2)
    weight = _ramp(given, 9, 15) * _ramp(given - recent, -15, -6)
    lost = (weight * (given - made).clip(0, 20)).sum(axis=1) / (weight.sum(axis=1) + 3)
    spoken = _ramp(slice_.voiced[0], 0.5, 0.8) * (slice_.loudness[0] > 6)
    value, first, end = _worst(spoken * lost, 9)
    return _Finding(value, f"speech at {_span(start, first, end)} is gone")


def _added(slice_: Comparison, start: float) -> _Finding:
    """Look for sound of the output that the input lacks; dB."""
    given, made = slice_.given[:, :WORDS], slice_.made[:, :WORDS]
    weight = _ramp(made, 9, 15) * slice_.heard[:WORDS]
    more = (weight * (made - given).clip(0, 20)).sum(axis=1) / (weight.sum(axis=1) + 3)
    value, first, end = _worst(more, 12)
    return _Finding(value, f"sound at {_span(start, first, end)} is not in the input")


def _voice(slice_: Comparison, start: float) -> _Finding:
    """Look for voices whose period is not in the input, and for those that became a whisper.

    Periodicity that is missing, 0 … 1.
    """
    voiced, loud = slice_.voiced, [loudness > 6 for loudness in slice_.loudness]
    spoken = (voiced[1] > VOICED) & loud[1]
    missing = spoken * (voiced[1] - slice_.shared[1]).clip(0, 1)
    value, first, end = _worst(missing, 15, spoken.astype(np.float64), at_least=6)
    spoken_before = (voiced[0] > VOICED) & loud[0] & loud[1]
    whispered = spoken_before & (voiced[1] < VOICED)
    lost = whispered * (voiced[0] - slice_.shared[0]).clip(0, 1)
    worst_lost = _worst(lost, 15, spoken_before.astype(np.float64), at_least=6)
    if worst_lost[0] > value:
        return _Finding(worst_lost[0], f"the voice at {_span(start, *worst_lost[1:])} is a whisper")
    return _Finding(value, _about_voice(slice_, spoken, start, first, end))


def _about_voice(slice_: Comparison, spoken: np.ndarray, start: float, first: int, end: int) -> str:
    """Say whether there is another pitch, or a voice where there was none."""
    place = slice(first, end)
    both = spoken[place] & (slice_.voiced[0][place] > VOICED)
    if both.sum() >= max(3, 0.5 * spoken[place].sum()):
        periods = [lags[place][both] + LAGS.start for lags in slice_.lags]
        semitones = float(np.median(12 * np.log2(periods[0] / periods[1])))
        if 1 <= abs(semitones) <= 9:  # more is a slip of an octave
            how = "higher" if semitones > 0 else "lower"
            where = _span(start, first, end)
            return f"the voice at {where} is {abs(semitones):.0f} semitones {how} than before"
    return f"the voice at {_span(start, first, end)} is not in the input"


def _hidden(slice_: Comparison, start: float) -> _Finding:
    """Look how much of the output's speech the input's noise hides; a share, 0 … 1.

    Speech without a pause is above no floor either, but its period is in the input.
    """
    loud = slice_.loudness[1]
    spoken = (slice_.voiced[1] > VOICED) & (loud > np.percentile(loud, 95) - 30)
    hidden = spoken & (loud < 6) & (slice_.shared[1] < _CLEAR)
    end = start + len(loud) * HOP / RATE
    reason = f"noise hides the speech at {start:.1f}-{end:.1f} s: nothing to compare it with"
    return _Finding(float(hidden.sum() / max(20, spoken.sum())), reason)


def _band(slice_: Comparison, start: float) -> _Finding:
    """Look for highs of the input that the output lacks all the time; dB."""
    given, made = slice_.given[:, WORDS:], slice_.made[:, WORDS:]
    weight = _ramp(given, 9, 15) * (slice_.loudness[0] > 6)[:, None]
    lost = (weight * (given - made).clip(0, 30)).sum() / (weight.sum() + 100)
    end = start + len(given) * HOP / RATE
    return _Finding(float(lost), f"highs are gone at {start:.1f}-{end:.1f} s")


def _speaker(slice_: Comparison, given: np.ndarray, made: np.ndarray, start: float) -> _Finding:
    """Ask whether it is the same voice, where the input lets that be known; 0 … 2.

    To the network, a voice in noise or in a room is another one already. So its answer counts only
    where speech is far above the noise, and as periodic as speech is that was recorded nearby.
    """
    loudness = slice_.loudness[0]
    periodic = slice_.voiced[0][loudness > 6]
    clear = _ramp(np.percentile(loudness, 95), 22, 28)
    near = _ramp(np.median(periodic), 0.7, 0.85) if len(periodic) else 0.0
    alike = likeness(given, made, RATE) if clear * near > 0 else None
    value = 0.0 if alike is None else float(clear * near * (1 - alike))
    end = start + len(loudness) * HOP / RATE
    return _Finding(value, f"the voice at {start:.1f}-{end:.1f} s is somebody else's")


PARTS: dict[str, Callable[[Comparison, float], _Finding]] = {
    "gone": _gone,
    "added": _added,
    "voice": _voice,
    "hidden": _hidden,
    "band": _band,
}


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 up to the one, 1 from the other."""
    return np.clip((values - low) / (high - low), 0, 1)


def _worst(
    values: np.ndarray, length: int, counted: np.ndarray | None = None, at_least: int = 0
) -> tuple[float, int, int]:
    """Find where the mean of (frames,) over a window is highest.

    Args:
        values: of the frames.
        length: of the window, in frames.
        counted: 1 for frames that count, 0 for others; None: all do.
        at_least: frames that a mean is taken over, where fewer count.

    Returns:
        The mean, and the first frame and the one after the last of what is half as bad around it.
    """
    length = min(length, len(values))
    means = _sums(values, length)
    means = means / (length if counted is None else np.maximum(_sums(counted, length), at_least))
    first = last = int(means.argmax())
    value = float(means[first])
    while first > 0 and means[first - 1] > value / 2:
        first -= 1
    while last < len(means) - 1 and means[last + 1] > value / 2:
        last += 1
    middle = length // 4  # a window that is half as bad holds half of it
    return value, first + middle, last + length - middle


def _sums(values: np.ndarray, length: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return sums[length:] - sums[:-length]


def _span(start: float, first: int, end: int) -> str:
    return f"{start + first * HOP / RATE:.1f}-{start + end * HOP / RATE:.1f} s"
