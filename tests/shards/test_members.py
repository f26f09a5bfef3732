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
    decode_samples,
    decode_waveform,
    encode_waveform,
    measure_waveform,
)

WAVEFORM = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def pth(content, is_old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not is_old)
    return file.getvalue()


@pytest.mark.parametrize("extension", ["npy", "flac"])
def test_written_members_come_back_to_half_a_step_of_16_bits(extension):
    data, name = encode_waveform(WAVEFORM, 24000, extension), f"input_wav.{extension}"
    rate = 24000 if extension == "flac" else None
    assert measure_waveform(data, name) == WaveformInfo(1, 3000, rate)
    whole, decoded_rate = decode_waveform(data, name)
    assert (whole.shape, whole.dtype, decoded_rate) == ((1, 3000), np.float32, rate)
    assert np.abs(whole[0] - np.clip(WAVEFORM, -1, 32767 / 32768)).max() <= 0.5 / 32768
    span, _ = decode_samples(data, name, 700, 100)
    assert np.array_equal(span, decode_samples(data, name)[0][:, 700:800])
    assert decode_samples(data, name, 2950, 100)[0].shape == (1, 50)


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
    span, _ = decode_samples(data, f"x.{kind}", 5, 9)
    assert np.array_equal(span, np.atleast_2d(array)[:, 5:14])


@pytest.mark.parametrize("is_old", [False, True])
def test_parameters_and_tensors_of_a_graph_are_read(is_old):
    tensor = torch.from_numpy(WAVEFORM)
    for content in (torch.nn.Parameter(tensor), tensor.clone().requires_grad_()):
        data = pth(content, is_old)
        assert measure_waveform(data, "x.pth") == WaveformInfo(1, 3000, None)
        assert np.array_equal(decode_waveform(data, "x.pth")[0][0], WAVEFORM)


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


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
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
        (npy(np.zeros(9, np.int16)).replace(b"(9,)", b"(-9,"), "x.npy", "cannot be read safely"),
        (npy(np.zeros(10, np.int16)).replace(b"(10,)", b"(-5,)"), "x.npy", r"shape is \(-5,\)"),
        (pth(torch.zeros(3).to_sparse()), "x.pth", "cannot be read safely"),
        (pth(torch.zeros(3, dtype=torch.complex64)), "x.pth", "holds complex64"),
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
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3, 400])
def test_a_cut_audio_file_is_named(kept):
    data = encode_waveform(WAVEFORM, 24000, "flac")[:kept]
    with pytest.raises(AudioError, match=r"^x\.flac"):
        decode_waveform(data, "x.flac")


def audio_file(format: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, WAVEFORM[:500], 16000, format=format)
    return file.getvalue()


SHORT = torch.from_numpy(WAVEFORM[:40])
VALID = {
    "x.npy": npy(WAVEFORM[:40]),
    "x2.npy": npy(np.ones((2, 30), np.int16)),
    "x.pth": pth(SHORT),
    "old.pth": pth(SHORT, is_old=True),
    "parameter.pth": pth(torch.nn.Parameter(SHORT), is_old=True),
    "half.pth": pth(SHORT.half().reshape(2, 20)),
    "x.wav": audio_file("WAV"),
    "x.flac": audio_file("FLAC"),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes, mostly near the beginning, where the structure is; or cut, or repeat."""
    content = bytearray(data)
    reach = len(content) if rng.random() < 0.4 else min(len(content), 130)
    for place in rng.integers(0, reach, rng.integers(1, 5)):
        content[place] = rng.integers(0, 256)
    kind, place = rng.integers(0, 8), rng.integers(0, reach)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        del content[place : place + rng.integers(1, 20)]
    elif kind == 2:
        content[place:place] = content[: rng.integers(1, 40)]
    return bytes(content)


@pytest.mark.filterwarnings("ignore")  # what a damaged header makes numpy and Python warn of
@pytest.mark.parametrize("name", VALID)
def test_a_damaged_member_is_named_or_is_a_waveform(name):
    rng, reasons = np.random.default_rng(0), []
    for _ in range(400):
        data = damaged(VALID[name], rng)
        try:
            info = measure_waveform(data, name)
            assert min(info.num_channels, info.num_samples) > 0
        except (ShardError, AudioError) as error:
            reasons.append(str(error))
        try:
            waveform, _ = decode_waveform(data, name)
            assert (waveform.ndim, waveform.dtype) == (2, np.float32)
        except (ShardError, AudioError) as error:
            reasons.append(str(error))
    assert len(reasons) > 50
    assert all(reason.startswith(name) and "\n" not in reason for reason in reasons)
