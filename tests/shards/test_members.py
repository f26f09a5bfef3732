"""Members that are audio: exact, whatever they are kept as, never code; the others are named."""

import io
import os
import pickle

import numpy as np
import pytest
import soundfile
import torch

from open_miipher.audio.io import AudioError
from open_miipher.shards import (
    ARRAY_HEADER_BYTES,
    ShardError,
    WaveformInfo,
    decode_waveform,
    encode_waveform,
    measure_waveform,
)

WAVEFORM = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def pth(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("extension", ["npy", "flac"])
def test_written_members_come_back_to_half_a_step_of_16_bits(extension):
    data, name = encode_waveform(WAVEFORM, 24000, extension), f"input_wav.{extension}"
    rate = 24000 if extension == "flac" else None
    assert measure_waveform(data, name) == WaveformInfo(1, 3000, rate)
    whole, decoded_rate = decode_waveform(data, name)
    assert (whole.shape, whole.dtype, decoded_rate) == ((1, 3000), np.float32, rate)
    assert np.abs(whole[0] - np.clip(WAVEFORM, -1, 32767 / 32768)).max() <= 0.5 / 32768
    span, _ = decode_waveform(data, name, 700, 100)
    assert np.array_equal(span, whole[:, 700:800])
    assert decode_waveform(data, name, 2950, 100)[0].shape == (1, 50)


def test_what_is_beyond_full_scale_is_clipped_not_wrapped():
    data = encode_waveform(np.array([-3.0, 3.0, 1.0, -1.0], np.float32), 24000, "npy")
    assert np.load(io.BytesIO(data)).tolist() == [-32768, 32767, 32767, -32768]


@pytest.mark.parametrize("shape", [(3000,), (1, 3000), (2, 1500)])
@pytest.mark.parametrize("kind", ["pth", "npy"])
def test_tensors_and_arrays_of_floats_are_read_as_they_are(shape, kind):
    array = WAVEFORM.reshape(shape)
    data = npy(array) if kind == "npy" else pth(torch.from_numpy(array))
    info = measure_waveform(data, f"x.{kind}")
    assert (info.num_channels, info.num_samples) == (1, *shape)[-2:]
    assert np.array_equal(decode_waveform(data, f"x.{kind}")[0], np.atleast_2d(array))
    assert np.array_equal(
        decode_waveform(data, f"x.{kind}", 5, 9)[0], np.atleast_2d(array)[:, 5:14]
    )


def test_the_beginning_of_an_array_tells_its_length():
    data = encode_waveform(WAVEFORM, 24000, "npy")[:ARRAY_HEADER_BYTES]
    assert measure_waveform(data, "x.npy") == WaveformInfo(1, 3000, None)


def test_wav_members_keep_their_rate():
    file = io.BytesIO()
    soundfile.write(file, WAVEFORM, 16000, format="WAV", subtype="FLOAT")
    waveform, rate = decode_waveform(file.getvalue(), "x.wav")
    assert rate == 16000
    assert np.array_equal(waveform[0], WAVEFORM)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pth(Trap()), "x.pth"),
        (pickle.dumps(Trap(), 2), "x.pth"),
        (npy(np.array([Trap()], object)), "x.npy"),
    ],
    ids=["torch", "pickle", "numpy"],
)
def test_no_code_is_run(data, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (decode_waveform, measure_waveform):
        with pytest.raises(ShardError, match=name):
            read(data, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (npy(np.zeros((2, 3, 4), np.float32)), "x.npy", r"its shape is \(2, 3, 4\)"),
        (npy(np.zeros((400, 1), np.float32)), "x.npy", r"its shape is \(400, 1\)"),
        (npy(np.zeros(0, np.int16)), "x.npy", r"its shape is \(0,\)"),
        (npy(np.zeros(9, np.int64)), "x.npy", "holds int64"),
        (npy(np.full(9, np.nan, np.float32)), "x.npy", "NaN or Inf"),
        (npy(np.zeros(9, np.float32))[:-4], "x.npy", "no waveform"),
        (b"", "x.npy", "no waveform"),
        (b"nothing", "x.npy", "no waveform"),
        (pth({"a": torch.zeros(3)}), "x.pth", "holds a dict, not a tensor"),
        (b"", "x.pth", "no waveform"),
        (b"{}", "names.json", "is no audio"),
    ],
)
def test_what_is_no_waveform_is_named(data, name, reason):
    with pytest.raises(ShardError, match=reason) as caught:
        decode_waveform(data, name)
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("kept", [0, 3, 400])
def test_a_cut_audio_file_is_named(kept):
    data = encode_waveform(WAVEFORM, 24000, "flac")[:kept]
    with pytest.raises(AudioError, match=r"^x\.flac"):
        decode_waveform(data, "x.flac")
