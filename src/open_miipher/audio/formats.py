"""How audio files are written, and how big they get; quick to import, for the command line."""

import numbers
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeGuard

from open_miipher.base.errors import UserError

FORMATS = ("wav", "flac")
SAMPLE_RATES = (1000, 768_000)
"""The lowest and the highest sample rate that is read and written, in Hz."""

SAMPLE_BYTES = {
    "PCM_U8": 1,
    "PCM_S8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ALAW": 1,
    "ULAW": 1,
}
"""Bytes a sample takes, by soundfile's name of the subtype."""

_FLAC_CHANNELS, _FLAC_RATE, _FLAC_ANY_RATE = 8, 655_350, 1 << 16
_FLAC_SHARE = 0.6  # of the plain samples' bytes, roughly
_MAX_NAME_BYTES = 255


def whole_rate(value: object) -> int:
    """Return a sample rate in Hz as an int: 24000.0 from JSON or YAML is one, too.

    Raises:
        UserError: it is no whole number, or too low or too high.
    """
    low, high = SAMPLE_RATES
    with suppress(AttributeError, ValueError, RuntimeError):  # no array, or one of several numbers
        value = value.item()  # type: ignore[attr-defined]
    if not is_number(value) or not low <= value <= high or value != int(value):
        raise UserError(f"sample rate {value!r}: give a whole number of Hz, {low} to {high}")
    return int(value)


def is_rate_of_flac(sample_rate: int) -> bool:
    """Whether flac can hold a sample rate: above 16 bits it counts in tens of Hz."""
    return sample_rate < _FLAC_ANY_RATE or (sample_rate <= _FLAC_RATE and sample_rate % 10 == 0)


def is_number(value: object) -> TypeGuard[float]:
    """Whether something is a number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class FileFormat:
    """How outputs are written.

    Attributes:
        format: wav or flac.
        subtype: soundfile's name for the kind of samples.

    Raises:
        UserError: on construction, if there is no such combination.
    """

    format: str = "wav"
    subtype: str = "PCM_16"

    def __post_init__(self) -> None:
        import soundfile  # brings numpy

        if self.format not in FORMATS:
            raise UserError(f"format {self.format!r}: choose one of {', '.join(FORMATS)}")
        known = [name for name in SAMPLE_BYTES if soundfile.check_format(self.format, name)]
        if self.subtype not in known:
            raise UserError(
                f"subtype {self.subtype!r} does not exist for {self.format}: choose one of "
                f"{', '.join(known)}"
            )

    def refusal(self, name: str, sample_rate: int, num_channels: int) -> str | None:
        """Say why a file cannot be written so, or None."""
        flac = self.format == "flac"
        if flac and (num_channels > _FLAC_CHANNELS or sample_rate > _FLAC_RATE):
            return f"flac holds at most {_FLAC_CHANNELS} channels and {_FLAC_RATE} Hz; use wav"
        if flac and not is_rate_of_flac(sample_rate):
            return f"flac does not hold {sample_rate} Hz, above 65535 tens alone; use wav"
        if len(os.fsencode(name.rsplit("/", 1)[-1])) > _MAX_NAME_BYTES:
            return f"the output's name has more than {_MAX_NAME_BYTES} bytes; shorten the input's"
        return None

    def num_bytes(self, num_frames: int, num_channels: int) -> float:
        """Estimate a file's size."""
        plain = num_frames * num_channels * SAMPLE_BYTES[self.subtype]
        return plain * _FLAC_SHARE if self.format == "flac" else 128 + plain
