"""Raw collections: what is found in tar files and directories, and units of work."""

import io

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.corpus.preprocessing.config import PreprocessingData, RawSource
from open_miipher.corpus.preprocessing.inputs import RawInputs, Unit
from open_miipher.shards import ShardError

from .conftest import RATE, encode, make_directory, make_tar, pack_tar, speech


def inputs(**source) -> RawInputs:
    return RawInputs(RawSource(**source), "data.train", PreprocessingData(sample_rate=RATE))


def recordings(path) -> list:
    raw = inputs(urls=[str(path)])
    (unit,) = raw.units(10**9, None)
    return [recording for _, recording in raw.recordings(unit)]


def array_bytes(waveform) -> bytes:
    file = io.BytesIO()
    np.save(file, waveform)
    return file.getvalue()


def tensor_bytes(waveform) -> bytes:
    file = io.BytesIO()
    torch.save(torch.from_numpy(waveform), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("members", "name"),
    [
        (lambda w: [("a.txt", b"x"), ("a.flac", encode(w))], "a.flac"),
        (lambda w: [("a.npy", array_bytes(w)), ("a.wav", encode(w, extension="wav"))], "a.wav"),
        (lambda w: [("a.npy", array_bytes(w)), ("a.sr.index", b"8000\n")], "a.npy"),
        (lambda w: [("a.wav.pth", tensor_bytes(w)), ("a.sr.index", b"8000")], "a.wav.pth"),
    ],
)
def test_the_audio_of_a_sample(members, name, tmp_path):
    waveform = speech(0, 1.0)
    (found,) = recordings(pack_tar(tmp_path / "x.tar", members(waveform)))
    assert (found.name, found.sample_rate, found.num_samples(RATE)) == (name, RATE, RATE)
    span = found.read(0, 1000, 500, RATE)
    assert np.allclose(span, waveform[1000:1500], atol=2e-4)
    assert len(found.read(0, 500, 250, RATE // 2)) == 250


def test_no_file_is_lost_where_names_have_dots(tmp_path):
    waves = [encode(speech(k, 0.1 + 0.1 * k), extension="wav") for k in range(3)]
    members = [(f"sp.{k}.wav", wave) for k, wave in enumerate(waves)]
    path = pack_tar(tmp_path / "x.tar", [*members, ("sp.txt", b"words"), ("one.WAV", waves[0])])
    raw = inputs(urls=[str(path)])
    found = dict(raw.recordings(raw.units(1, None)[0]))
    names = ["sp.0.wav", "sp.1.wav", "sp.2.wav", "one.WAV"]
    assert [recording.name for recording in found.values()] == names
    assert list(found) == [f"{path}/{name}" for name in names]
    lengths = [recording.num_samples(RATE) for recording in found.values()]
    assert lengths == [800, 1600, 2400, 800]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "a has no audio among its members txt"),
        ([("a.npy", b"x")], "a has no audio"),
        ([("a.flac", b"no flac")], "a.flac cannot be opened"),
        ([("a.flac", encode(speech(0, 3.0))[:-9000])], "a.flac is "),
        ([("a.wav", encode(speech(0, 3.0), extension="wav")[:-99])], "a.wav is truncated"),
        ([("a.npy", b"x"), ("a.sr.index", b"8000")], "a.npy is no waveform"),
        (
            [("a.npy", b"x"), ("a.sr.index", b"fast")],
            "a: sr.index is b'fast', not a whole number of Hz",
        ),
    ],
)
def test_what_is_no_audio_is_named_and_the_rest_goes_on(members, reason, tmp_path):
    path = pack_tar(tmp_path / "x.tar", [*members, ("b.flac", encode(speech(0, 0.1)))])
    bad, good = recordings(path)
    assert isinstance(bad, UserError)
    assert reason in str(bad)
    assert str(path) in str(bad)
    assert good.name == "b.flac"


def test_what_comes_before_the_damage_is_given(tmp_path):
    path = make_tar(tmp_path / "x.tar", 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"utt003.flac") + 700])
    raw, found = inputs(urls=[str(path)]), []
    with pytest.raises(ShardError, match=r"x\.tar cannot be read"):
        found.extend(raw.recordings(raw.units(1, None)[0]))
    assert [r.name for _, r in found] == ["utt000.flac", "utt001.flac", "utt002.flac"]


def test_units_of_a_directory_hold_every_file_once(tmp_path):
    root = make_directory(tmp_path / "speech")
    raw = inputs(dir_list=[str(root)])
    units = raw.units(2 * RATE, RATE)
    names = [recording.name for unit in units for _, recording in raw.recordings(unit)]
    assert names == [f"speech/{number}.wav" for number in range(7)]
    assert len(units) > 2
    assert len({unit.id for unit in units}) == len({unit.name for unit in units}) == len(units)
    assert [unit.stamp for unit in units] == [unit.stamp for unit in raw.units(2 * RATE, RATE)]
    longest = max(sum(min(r.num_samples(RATE), RATE) for _, r in raw.recordings(u)) for u in units)
    assert longest <= 2 * RATE


def test_units_of_equal_names_are_told_apart():
    one, two = Unit("/a/speech ü.tar", [], 0.0), Unit("/b/speech ü.tar", [], 0.0)
    assert one.name != two.name
    assert one.name.startswith("speech_-")
    assert one.name.isascii()


def test_missing_tars_are_named_together_before_any_work(tmp_path):
    raw = inputs(urls=[str(tmp_path / "a.tar"), str(tmp_path / "b.tar")])
    with pytest.raises(UserError, match=r"(?s)2 problems.*a\.tar does not exist.*b\.tar"):
        raw.units(1, None)
    with pytest.raises(UserError, match=r"data\.train\.urls: .*nowhere holds no shards"):
        inputs(urls=[str(tmp_path / "nowhere")])
    root = make_directory(tmp_path / "speech", 1)
    with pytest.raises(UserError, match="stands there twice"):
        inputs(dir_list=[str(root), f"{root}/"])
