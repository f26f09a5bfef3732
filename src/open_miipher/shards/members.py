"""Read and write the audio members of samples: int16 arrays, audio files, older shards' tensors."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from open_miipher.audio.io import AUDIO_EXTENSIONS, AudioInfo, Encoded, probe, read, read_header
from open_miipher.audio.kinds import UNREAD_EXTENSIONS
from open_miipher.audio.level import scale_problem
from open_miipher.audio.recording import Recording
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.shards.archive import Sample, ShardError

CLEAN_MEMBER, DAMAGED_MEMBER = "input_wav", "noisy_input_wav"
"""Names of the clean and the damaged member of a pair, without the extension."""

RATE_MEMBER = "sr.index"
"""Name of the member that has the sample rate as text, since arrays do not have it."""

ARRAY_EXTENSIONS = ("npy", "pth")
"""Of members that are arrays or tensors, and no audio files."""

FULL_SCALE = 32768.0
"""int16 samples are divided by this to become floats."""

_LOUDEST = 32767
_MOST_DIGITS = 9
ARRAY_HEADER_BYTES = 4096
"""`measure_waveform` needs these first bytes of an array; its header is shorter."""


@dataclass(frozen=True)
class WaveformInfo:
    """Channels, samples of each channel, and the rate in Hz if the member has it."""

    num_channels: int
    num_samples: int
    sample_rate: int | None


def encode_waveform(waveform: np.ndarray, sample_rate: int, extension: str) -> bytes:
    """Encode audio with 16 bits a sample; samples beyond full scale are clipped.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz; an `npy` does not contain it.
        extension: `npy` (an int16 array: fastest to read) or `flac` (about half the size).
    """
    numbers = np.clip(np.rint(waveform * np.float32(FULL_SCALE)), -FULL_SCALE, _LOUDEST)
    file = io.BytesIO()
    if extension == "npy":
        np.save(file, numbers.astype(np.int16), allow_pickle=False)
    elif extension == "flac":
        soundfile.write(file, numbers.astype(np.int16), sample_rate, format="FLAC")
    else:
        raise ValueError(f"audio members are npy or flac, not {extension}")
    return file.getvalue()


def decode_waveform(data: bytes, name: str) -> tuple[np.ndarray, int | None]:
    """Decode an audio member to (channels, samples) float32; otherwise as `decode_samples`."""
    samples, sample_rate = decode_samples(data, name)
    if samples.dtype == np.int16:
        samples = samples * np.float32(1 / FULL_SCALE)
    return samples, sample_rate


def decode_samples(
    data: bytes, name: str, start: int = 0, num_samples: int | None = None
) -> tuple[np.ndarray, int | None]:
    """Decode an audio member; code inside it is never executed.

    Args:
        data: content of the member.
        name: its name; the extension says what it is: npy, pth (a plain tensor), or an audio file.
        start: first sample to decode.
        num_samples: the most samples to decode; None: all that follow.

    Returns:
        (channels, samples), int16 if an array or tensor is int16, otherwise float32; and the sample
        rate in Hz, or None if the member does not contain it.

    Raises:
        ShardError: the member is not what its name says, or no waveform: its shape is neither
            (samples,) nor (channels, samples), it is empty, or has NaN or Inf. The message begins
            with the name.
        AudioError: an audio file is damaged. The message begins with the name.
    """
    extension = _extension(name)
    if extension in AUDIO_EXTENSIONS:
        return _audio(Encoded(name, data), start, num_samples)
    with _told(name):
        waveform = _array(data) if extension == "npy" else _tensor(data)
    end = None if num_samples is None else start + num_samples
    span = np.atleast_2d(waveform)[:, start:end]
    if waveform.dtype == np.int16:
        return span, None
    return _finite(np.asarray(span, np.float32), name), None


def measure_waveform(data: bytes, name: str) -> WaveformInfo:
    """Return the length of a member, from its header where it has one.

    Args:
        data: content of the member; of an `npy`, the first ARRAY_HEADER_BYTES are enough.
        name: its name, as for `decode_waveform`.

    Raises:
        ShardError, AudioError: as `decode_waveform`.
    """
    extension = _extension(name)
    if extension in AUDIO_EXTENSIONS:
        info = read_header(Encoded(name, data))
        return WaveformInfo(info.num_channels, info.num_frames, info.sample_rate)
    with _told(name):
        shape = _array_header(data)[0] if extension == "npy" else _tensor(data).shape
    num_channels, num_samples = (1, *shape)[-2:]
    return WaveformInfo(num_channels, num_samples, None)


def read_rate(members: Mapping[str, bytes]) -> int:
    """Read the sample rate (Hz) that a sample has beside its arrays.

    Raises:
        ShardError: the member is missing or not such a number. The message does not name the
            sample; the caller does.
    """
    if RATE_MEMBER not in members:
        raise ShardError(f"it has no member {RATE_MEMBER}, but {printable(', '.join(members))}")
    text = members[RATE_MEMBER].strip()
    if not text.isdigit() or len(text) > _MOST_DIGITS or not int(text):
        raise ShardError(f"{RATE_MEMBER} is {text[:20]!r}, not a whole number of Hz")
    return int(text)


@dataclass(frozen=True)
class Member(Recording):
    """Audio inside a tar, looked into and not decoded yet.

    Attributes:
        name: of the sample and of its member, behind a prefix that the caller chose.
        info: rate, length and channels.
        data: the audio file, or (channels, samples) float32.
    """

    data: Encoded | np.ndarray

    def decode(self, start: int, count: int) -> np.ndarray:
        """Return frames: (channels, count) float32."""
        if isinstance(self.data, Encoded):
            return read(self.data, start, count)[0]
        return self.data[:, start : start + count]


def open_member(sample: Sample, name: str, prefix: str = "") -> Member:
    """Look into a member of a sample that is audio; arrays have their rate beside them.

    Raises:
        AudioError, ShardError: it is none; the message names it, behind the prefix.
    """
    full_name = f"{prefix}{sample.key}.{name}"
    if extension_of(name) not in ARRAY_EXTENSIONS:
        file = Encoded(full_name, sample.members[name])
        return Member(full_name, probe(file), file)
    try:
        rate = read_rate(sample.members)
    except ShardError as error:
        raise ShardError(f"{printable(prefix + sample.key)}: {error}") from error
    waveform, _ = decode_waveform(sample.members[name], full_name)
    num_channels, num_frames = waveform.shape
    return Member(full_name, AudioInfo(rate, num_frames, num_channels, "", ""), waveform)


def audio_names(sample: Sample) -> list[str]:
    """Return the names of a sample's members that are audio files."""
    return [name for name in sample.members if extension_of(name) in AUDIO_EXTENSIONS]


def without_audio(sample: Sample) -> str | None:
    """Say why a sample that has no readable audio file is a failure; None if it never had audio.

    Texts, pictures and what else stands beside a corpus are none.
    """
    kinds = {name: extension_of(name) for name in sample.members}
    unread = [name for name, kind in kinds.items() if kind in UNREAD_EXTENSIONS]
    if unread:
        return f"has no audio that is read, but {unread[0]}; convert it, with ffmpeg for one"
    if any(kind in ARRAY_EXTENSIONS for kind in kinds.values()):
        return f"has no audio among its members {', '.join(sample.members)}"
    return None


def open_recordings(sample: Sample, url: str) -> Iterator[tuple[str, Member | UserError | None]]:
    """Yield name and recording of every audio member of a raw sample, or why it is none.

    Several are one sample where file names have dots: `a.0.wav` and `a.1.wav` share the key `a`.
    Without any, the first array counts, if the sample says its rate. Of a sample that has nothing
    to do with audio, every member comes with None.

    Raises:
        ShardError: the sample is a pair that was made of speech, not speech.
    """
    stems = {name.partition(".")[0] for name in sample.members}
    if {CLEAN_MEMBER, DAMAGED_MEMBER} <= stems:
        raise ShardError(
            f"{printable(url)}: {printable(sample.key)} is a pair of clean and damaged speech, as "
            "src/preprocess.py writes them, and no recording; take these shards out of the inputs"
        )
    names = audio_names(sample)
    if not names and RATE_MEMBER in sample.members:
        names = [n for n in sample.members if extension_of(n) in ARRAY_EXTENSIONS][:1]
    if not names:
        problem = without_audio(sample)
        if problem is not None:
            yield sample.key, ShardError(printable(f"{url}: {sample.key} {problem}"))
            return
        yield from ((path, None) for path in sample.paths())
    for name in names:
        full_name = f"{sample.key}.{name}"
        try:
            yield full_name, open_member(sample, name)
        except UserError as error:
            yield full_name, ShardError(printable(f"{url}: {error}"))


def extension_of(name: str) -> str:
    """Return what stands behind a name's last dot, in lower case."""
    return name.rpartition(".")[2].lower()


def _extension(name: str) -> str:
    extension = extension_of(name)
    if extension not in (*ARRAY_EXTENSIONS, *AUDIO_EXTENSIONS):
        raise ShardError(
            f"{printable(name)} is no audio; the kinds are npy, pth, {', '.join(AUDIO_EXTENSIONS)}"
        )
    return extension


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, TypeError) as error:
        raise ShardError(f"{printable(name)} is no waveform: {error}") from error


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (1, 2) or min(shape) < 1 or (len(shape) == 2 and shape[0] > shape[1]):
        raise ValueError(f"its shape is {tuple(shape)}, not (samples,) or (channels, samples)")
    if dtype != np.int16 and dtype.kind != "f":
        raise ValueError(f"it holds {dtype}; int16 or floating point is read")


def _audio(file: Encoded, start: int, num_samples: int | None) -> tuple[np.ndarray, int]:
    left = max(0, read_header(file).num_frames - start)
    return read(file, start, left if num_samples is None else min(num_samples, left))


def _array(data: bytes) -> np.ndarray:
    shape, dtype, offset = _array_header(data)
    return np.frombuffer(data, dtype, count=math.prod(shape), offset=offset).reshape(shape)


def _array_header(data: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, type and where the numbers begin."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read_header(file)
    # numpy parses the header as Python source. On damaged bytes its tokenizer and parser raise
    # different exceptions, depending on the version.
    except Exception as error:
        raise _unsafe(error) from error
    if dtype.hasobject or (is_fortran and len(shape) > 1):
        raise ValueError(f"{dtype} in column order" if is_fortran else "it holds Python objects")
    _check(shape, dtype)
    return shape, dtype, file.tell()


def _tensor(data: bytes) -> np.ndarray:
    import torch

    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        array = _plain_array(tensor) if isinstance(tensor, torch.Tensor) else None
    # torch executes the pickle's operations without checking their operands. On damaged bytes they
    # raise any exception: KeyError, AssertionError, struct.error, …
    except Exception as error:
        raise _unsafe(error) from error
    if array is None:
        raise ValueError(f"it holds a {type(tensor).__name__}, not a tensor")
    _check(array.shape, array.dtype)
    return array


def _plain_array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()  # a parameter cannot become an array
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def _unsafe(error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [""])[0]
    return ValueError(f"it cannot be read safely: {type(error).__name__}: {reason}".rstrip(": "))


def _finite(waveform: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(waveform).all():
        raise ShardError(f"{printable(name)} holds NaN or Inf")
    problem = scale_problem(waveform)
    if problem:
        raise ShardError(f"{printable(name)} {problem}")
    return waveform
