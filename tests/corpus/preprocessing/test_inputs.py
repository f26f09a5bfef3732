"""Raw collections: what is found in tar files and directories, and units of work."""

import io
import pickle

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.corpus.preprocessing.config import PreprocessingOptions
from open_miipher.corpus.preprocessing.inputs import RawInputs, unit_name
from open_miipher.corpus.run import Item
from open_miipher.data.config import PreprocessingData, RawSource
from open_miipher.shards import ShardError

from .conftest import RATE, encode, make_directory, make_tar, pack_tar, speech


def inputs(**source) -> RawInputs:
    """Raw inputs in units of at most two samples of a second."""
    data = PreprocessingData(
        sample_rate=RATE, crop_seconds=1.0, sample_seconds=1.0, train=RawSource(**source)
    )
    return RawInputs(data, PreprocessingOptions(shard_maxcount=2), "train")


def units(raw: RawInputs) -> list[Item]:
    return [raw.look(item, "", raw.stamp(item)) for item in raw.ids()]


def opened(raw: RawInputs, unit: Item) -> list:
    """What a worker finds, which has no index."""
    return list(pickle.loads(pickle.dumps(raw)).open(raw.filled(unit)))


def recordings(path) -> list:
    raw = inputs(urls=[str(path)])
    (unit,) = units(raw)
    return [recording for _, recording in opened(raw, unit)]


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
    assert (found.name, found.info.sample_rate, found.num_samples(RATE)) == (name, RATE, RATE)
    span = found.read(0, 1000, 500, RATE)
    assert np.allclose(span, waveform[1000:1500], atol=2e-4)
    assert len(found.read(0, 500, 250, RATE // 2)) == 250


def test_no_file_is_lost_where_names_have_dots(tmp_path):
    waves = [encode(speech(k, 0.1 + 0.1 * k), extension="wav") for k in range(3)]
    members = [(f"sp.{k}.wav", wave) for k, wave in enumerate(waves)]
    path = pack_tar(tmp_path / "x.tar", [*members, ("sp.txt", b"words"), ("one.WAV", waves[0])])
    raw = inputs(urls=[str(path)])
    found = dict(opened(raw, *units(raw)))
    names = ["sp.0.wav", "sp.1.wav", "sp.2.wav", "one.WAV"]
    assert [recording.name for recording in found.values()] == names
    assert list(found) == [f"{path}/{name}" for name in names]
    lengths = [recording.num_samples(RATE) for recording in found.values()]
    assert lengths == [800, 1600, 2400, 800]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.npy", b"x"), ("a.txt", b"x")], "a has no audio among its members npy, txt"),
        ([("a.gsm", b"x")], "a has no audio that is read, but gsm; convert it"),
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


def test_what_has_nothing_to_do_with_audio_is_passed_over(tmp_path):
    members = [("README", b"x"), ("d/LICENSE.TXT", b"x"), ("b.flac", encode(speech(0, 0.1)))]
    path = pack_tar(tmp_path / "x.tar", [*members, ("b.txt", b"x"), ("c.trans.txt", b"x")])
    raw = inputs(urls=[str(path)])
    found = dict(opened(raw, *units(raw)))
    passed = [name.removeprefix(f"{path}/") for name, kind in found.items() if kind is None]
    assert passed == ["README", "d/LICENSE.TXT", "c.trans.txt"]
    assert list(found)[2] == f"{path}/b.flac"


def test_what_comes_before_the_damage_is_given(tmp_path):
    path = make_tar(tmp_path / "x.tar", 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"utt003.flac") + 700])
    raw, found = inputs(urls=[str(path)]), []
    with pytest.raises(ShardError, match=r"x\.tar cannot be read"):
        found.extend(raw.open(*units(raw)))
    assert [r.name for _, r in found] == ["utt000.flac", "utt001.flac", "utt002.flac"]


def test_units_of_a_directory_hold_every_file_once(tmp_path):
    root = make_directory(tmp_path / "speech")
    raw = inputs(dir_list=[str(root)])
    found = units(raw)
    held = {unit.id: [recording for _, recording in opened(raw, unit)] for unit in found}
    names = sorted(recording.name for recordings in held.values() for recording in recordings)
    assert names == [f"speech/{number}.wav" for number in range(7)]
    assert len(found) == len(held) > 2
    assert len({unit_name(unit.id) for unit in found}) == len(found)
    assert [unit.stamp for unit in found] == [unit.stamp for unit in units(raw)]
    for recordings in held.values():
        assert sum(min(r.num_samples(RATE), RATE) for r in recordings) <= 2 * RATE


def test_units_of_equal_names_are_told_apart():
    one, two = unit_name("/a/speech ü.tar"), unit_name("/b/speech ü.tar")
    assert one != two
    assert one.startswith("speech_-")
    assert one.isascii()
    assert unit_name("/a/speech#7") == f"{unit_name('/a/speech')}-00007"


def test_missing_tars_are_named_together_before_any_work(tmp_path):
    raw = inputs(urls=[str(tmp_path / "a.tar"), str(tmp_path / "b.tar")])
    with pytest.raises(UserError, match=r"(?s)2 problems.*a\.tar does not exist.*b\.tar"):
        raw.ids()
    with pytest.raises(UserError, match=r"data\.train\.urls: .*nowhere holds no shards"):
        inputs(urls=[str(tmp_path / "nowhere")])
    root = make_directory(tmp_path / "speech", 1)
    with pytest.raises(UserError, match="stands there twice"):
        inputs(dir_list=[str(root), f"{root}/"])
