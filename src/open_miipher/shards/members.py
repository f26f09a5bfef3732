"""Audio as a member of a sample: int16 arrays, audio files, and tensors of older shards."""

import io
import pickle
import zipfile

import numpy as np
import soundfile

from open_miipher.audio.io import AUDIO_EXTENSIONS, Encoded, read, read_header
from open_miipher.shards.archive import ShardError

_FULL_SCALE = 32768.0
_LOUDEST = 32767


def encode_waveform(waveform: np.ndarray, sample_rate: int, extension: str) -> bytes:
    """Encode audio as 16 bits a sample; beyond full scale it is clipped.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz; `npy` does not keep it.
        extension: `npy` (an int16 array: fastest to read) or `flac` (about half the size).
    """
    numbers = np.clip(np.rint(waveform * np.float32(_FULL_SCALE)), -_FULL_SCALE, _LOUDEST)
    file = io.BytesIO()
    if extension == "npy":
        np.save(file, numbers.astype(np.int16), allow_pickle=False)
    elif extension == "flac":
        soundfile.write(file, numbers.astype(np.int16), sample_rate, format="FLAC")
    else:
        raise ValueError(f"audio members are npy or flac, not {extension}")
    return file.getvalue()


def decode_waveform(
    data: bytes, name: str, start: int = 0, num_samples: int | None = None
) -> tuple[np.ndarray, int | None]:
    """Decode a member that is audio; never runs code that it may hold.

    Args:
        data: the member.
        name: its name; the extension tells what it is: npy, pth (a plain tensor), or an audio file.
        start: first sample.
        num_samples: how many at most; the rest if None.

    Returns:
        (channels, samples) float32, and the sample rate in Hz where the member keeps it.

    Raises:
        ShardError: it is not what its name says, or no waveform: of other than one or two
            dimensions, empty, or with NaN or Inf; begins with the name.
        AudioError: an audio file is damaged; begins with the name.
    """
    extension = name.rpartition(".")[2].lower()
    end = None if num_samples is None else start + num_samples
    try:
        if extension == "npy":
            waveform, sample_rate = _array(data), None
        elif extension == "pth":
            waveform, sample_rate = _tensor(data), None
        elif extension in AUDIO_EXTENSIONS:
            return _audio(Encoded(name, data), start, num_samples)
        else:
            raise ShardError(f"{name} is no audio: npy, pth, {', '.join(AUDIO_EXTENSIONS)} are")
    except (ValueError, EOFError, TypeError) as error:
        raise ShardError(f"{name} is no array: {error}") from error
    if waveform.ndim not in (1, 2) or waveform.size == 0 or waveform.dtype.kind not in "if":
        raise ShardError(f"{name} is no waveform: {waveform.dtype} {waveform.shape}")
    span = np.atleast_2d(waveform)[:, start:end]
    if waveform.dtype.kind == "i":
        if waveform.dtype != np.int16:
            raise ShardError(f"{name} holds {waveform.dtype}; int16 or floating point is read")
        return span * np.float32(1 / _FULL_SCALE), None
    return _finite(np.asarray(span, np.float32), name), sample_rate


def _audio(file: Encoded, start: int, num_samples: int | None) -> tuple[np.ndarray, int]:
    left = max(0, read_header(file).num_frames - start)
    return read(file, start, left if num_samples is None else min(num_samples, left))


def _array(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject or is_fortran:
        raise ValueError(f"{dtype} in column order" if is_fortran else "it holds Python objects")
    return np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=file.tell()).reshape(shape)


def _tensor(data: bytes) -> np.ndarray:
    import torch

    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"torch cannot read it safely: {str(error).splitlines()[0]}") from error
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"it holds a {type(tensor).__name__}, not a tensor")
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def _finite(waveform: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(waveform).all():
        raise ShardError(f"{name} holds NaN or Inf")
    return waveform
