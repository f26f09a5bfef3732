"""Whether a text can be said, and whether what was said can be it: its length and its level."""

import math
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

SHORTEST, LONGEST = 0.3, 3.0
"""Times the expected length within which speech is believed."""

PAUSES = 0.5
"""Seconds at both ends of what is said, together, in the expected length."""

MAX_CHARACTERS = 1000
"""Of a text, unless told otherwise."""

_DIGIT_CHARACTERS, _WIDE_CHARACTERS = 5, 3
_SILENT_RMS, _FULL_SCALE, _MOST_CLIPPED = 1e-3, 0.999, 1e-3


@dataclass(frozen=True)
class BadText:
    """A text that cannot be spoken, and why."""

    problem: str


def as_spoken(
    text: Any, max_characters: int = MAX_CHARACTERS, option: str = "max_characters"
) -> str | BadText:
    """Return a text as it is spoken: white space in a row, line ends too, is a space.

    Args:
        text: whatever stands where a text should.
        max_characters: that it may have.
        option: what people call that limit.
    """
    if not isinstance(text, str):
        return BadText(f"the text is none, but {type(text).__name__}: {str(text)[:50]!r}")
    words = " ".join(text.split())
    if any("\ud800" <= character <= "\udfff" for character in words):
        return BadText(f"the text {words[:50]!r} holds half a character (a lone surrogate)")
    if not any(character.isalnum() for character in words):
        return BadText("the text is empty" if not words else f"the text {words[:50]!r} is mute")
    if len(words) > max_characters:
        return BadText(f"the text has {len(words)} characters, more than {option}={max_characters}")
    return words


def expected_seconds(text: str, characters_per_second: float) -> float:
    """Return how long a text should take: PAUSES, and its characters at a usual speed.

    A digit counts as five characters (`1984` is said as `nineteen eighty-four`), a Chinese,
    Japanese or Korean character as three, any other as one; white space in a row is one.
    """
    count = 0
    for character in " ".join(text.split()):
        if character.isdigit():
            count += _DIGIT_CHARACTERS
        elif unicodedata.east_asian_width(character) in "WF":
            count += _WIDE_CHARACTERS
        else:
            count += 1
    return PAUSES + count / characters_per_second


def problem_with(waveform: np.ndarray, sample_rate: int, expected: float) -> str | None:
    """Say why a waveform cannot be the text that was to be said; None if nothing speaks against it.

    Args:
        waveform: (samples,) float.
        sample_rate: in Hz.
        expected: its length, from `expected_seconds`.
    """
    if waveform.ndim != 1 or not len(waveform):
        return "the speech is empty"
    if not np.isfinite(waveform).all():
        return "the speech holds NaN or infinity"
    level = math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))))
    if level < _SILENT_RMS:
        return "the speech is silent"
    clipped = float(np.mean(np.abs(waveform) >= _FULL_SCALE))
    if clipped > _MOST_CLIPPED:
        return f"the speech is clipped: {clipped:.1%} of its samples are at full scale"
    seconds = len(waveform) / sample_rate
    if not SHORTEST * expected <= seconds <= LONGEST * expected:
        return (
            f"the speech takes {seconds:.2f} s, and about {expected:.2f} s were expected "
            f"({SHORTEST:g} to {LONGEST:g} times that is believed)"
        )
    return None
