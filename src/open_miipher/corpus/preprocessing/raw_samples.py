"""The recordings in the samples of a raw tar file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from open_miipher.audio.io import AUDIO_EXTENSIONS, Encoded, probe, read
from open_miipher.audio.resample import num_output_frames
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.data.files import read_resampled
from open_miipher.shards import (
    CLEAN_MEMBER,
    DAMAGED_MEMBER,
    RATE_MEMBER,
    Sample,
    ShardError,
    decode_waveform,
    read_rate,
)

_ARRAY_EXTENSIONS = ("npy", "pth")


class Recording(Protocol):
    """One recording, not decoded yet; `data.files.File` is one."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def sample_rate(self) -> int:
        """Its own, in Hz."""

    def num_samples(self, sample_rate: int) -> int:
        """Length once resampled."""

    def draw_channel(self, rng: np.random.Generator) -> int:
        """Draw one of its channels."""

    def read(self, channel: int, start: int, num_samples: int, sample_rate: int) -> np.ndarray:
        """Read a span of one channel, resampled: (num_samples,) float32."""


@dataclass(frozen=True)
class Member:
    """A recording inside a tar file.

    Attributes:
        name: of the sample and of its member.
        sample_rate: Hz.
        num_frames: length in its own frames.
        num_channels: how many.
        decode: gives (channels, count) from a first frame and a count of frames.
    """

    name: str
    sample_rate: int
    num_frames: int
    num_channels: int
    decode: Callable[[int, int], np.ndarray]

    def num_samples(self, sample_rate: int) -> int:
        """Length once resampled to `sample_rate` Hz."""
        return num_output_frames(self.num_frames, self.sample_rate, sample_rate)

    def draw_channel(self, rng: np.random.Generator) -> int:
        """Draw one of the channels."""
        return int(rng.integers(self.num_channels)) if self.num_channels > 1 else 0

    def read(self, channel: int, start: int, num_samples: int, sample_rate: int) -> np.ndarray:
        """Read a span of one channel, resampled."""
        return read_resampled(
            lambda first, count: self.decode(first, count)[channel],
            self.num_frames,
            self.sample_rate,
            start,
            num_samples,
            sample_rate,
        )


def open_recordings(sample: Sample, url: str) -> Iterator[tuple[str, Recording | UserError]]:
    """Yield name and recording of every audio member of a raw sample, or why it is none.

    Several are one sample where file names have dots: `a.0.wav` and `a.1.wav` share the key `a`.
    Without any, the first array counts, if the sample says its rate.

    Raises:
        ShardError: the sample is a pair that was made of speech, not speech.
    """
    stems = {name.partition(".")[0] for name in sample.members}
    if {CLEAN_MEMBER, DAMAGED_MEMBER} <= stems:
        raise ShardError(
            f"{printable(url)}: {printable(sample.key)} is a pair of clean and damaged speech, as "
            "src/preprocess.py writes them, and no recording; take these shards out of the inputs"
        )
    names = _audio_members(sample)
    if not names:
        members = printable(", ".join(sample.members))
        yield sample.key, _problem(url, f"{sample.key} has no audio among its members {members}")
    for name in names:
        full_name = f"{sample.key}.{name}"
        try:
            yield full_name, _open(full_name, sample.members[name], sample)
        except UserError as error:
            yield full_name, _problem(url, str(error))


def _audio_members(sample: Sample) -> list[str]:
    audio = [name for name in sample.members if _extension(name) in AUDIO_EXTENSIONS]
    if audio or RATE_MEMBER not in sample.members:
        return audio
    return [name for name in sample.members if _extension(name) in _ARRAY_EXTENSIONS][:1]


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _problem(url: str, sentence: str) -> ShardError:
    return ShardError(printable(f"{url}: {sentence}"))


def _open(name: str, data: bytes, sample: Sample) -> Recording:
    if _extension(name) not in _ARRAY_EXTENSIONS:
        file = Encoded(name, data)
        info = probe(file)  # so that a truncated file shows, wherever its crop lies
        return Member(
            name,
            info.sample_rate,
            info.num_frames,
            info.num_channels,
            lambda start, count: read(file, start, count)[0],
        )
    try:
        rate = read_rate(sample.members)
    except ShardError as error:
        raise ShardError(f"{sample.key}: {error}") from error
    waveform, _ = decode_waveform(data, name)
    channels, num_frames = waveform.shape
    return Member(
        name,
        rate,
        num_frames,
        channels,
        lambda start, count: waveform[:, start : start + count],
    )
