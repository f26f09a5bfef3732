"""Audio alone: crops, padding, mels from files, labels from folders; and what is refused."""

import dataclasses
import re
import warnings

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.config import compose_plain
from open_miipher.data import (
    Audio,
    AudioConfig,
    LabelledAudio,
    LabelledAudioConfig,
    LabelledBatch,
    train_batches,
    validation_batches,
)
from open_miipher.data.config import AudioDirs, HeldOutAudio, MelShape

RATE = 16000


def ramp(num_samples: int, start: float = 0.0) -> np.ndarray:
    """Its values tell which sample each is."""
    return (start + np.arange(num_samples)).astype(np.float32) / 2**17


@pytest.fixture
def ramps(make_dir) -> str:
    """Five files of a second, and one of half a second."""
    files = {f"{k}.wav": (ramp(RATE, 16000 * k), RATE) for k in range(5)}
    return make_dir("ramps", files | {"short.wav": (ramp(8000, 90000), RATE)})


def config(root: str, **changes) -> AudioConfig:
    return dataclasses.replace(AudioConfig(crop_seconds=0.512, train=AudioDirs([root])), **changes)


def test_crops_come_from_anywhere_and_depend_on_seed_epoch_and_index_alone(ramps):
    with pytest.warns(UserWarning, match="1 of 6 files of data.train.dir_list are shorter"):
        data = Audio(config(ramps)).train(seed=3)
    crops = [data.sample(epoch, 2) for epoch in range(50)]
    for crop in crops:
        start = round(float(crop.waveform[0]) * 2**17) - 32000
        assert np.array_equal(crop.waveform, ramp(8192, 32000 + start))
        assert 0 <= start <= RATE - 8192
    assert len({float(crop.waveform[0]) for crop in crops}) > 40
    assert np.array_equal(data.sample(7, 2).waveform, crops[7].waveform)
    assert data.sample(1, 2).name == "ramps/2.wav epoch 1 index 2"
    assert data.described == "6 files, 5.5 s"


def test_short_clips_are_padded_with_zeros_and_batches_have_one_length(ramps):
    source = Audio(config(ramps))
    with pytest.warns(UserWarning, match="they are padded with zeros"):
        data = source.train(seed=0)
    assert (source.sample_rate, source.crop_seconds) == (RATE, 0.512)
    batch = next(train_batches(data, 0, batch_size=6)).to("cpu")
    assert batch.waveform.shape == (6, 8192)
    assert batch.waveform.dtype == torch.float32
    assert batch.mels is None
    short = next(k for k, name in enumerate(batch.names) if "short" in name)
    assert batch.lengths.tolist() == [8000 if k == short else 8192 for k in range(6)]
    assert not batch.waveform[short, 8000:].any()


def test_a_file_at_the_crop_s_length_is_not_short(make_dir):
    """44.1 kHz: a second is a second."""
    root = make_dir("one", {"a.wav": (ramp(44100), 44100), "b.wav": (ramp(44000), 44100)})
    with pytest.warns(UserWarning, match="1 of 2 files"):
        Audio(config(root, crop_seconds=1.0)).train(0)


def test_validation_takes_the_same_clips_each_time(ramps, make_dir):
    other = make_dir("other", {f"{k}.wav": (ramp(RATE, 0.5), RATE) for k in range(4)})
    data = Audio(config(ramps, test=HeldOutAudio([other], num_clips=2))).validation(5)
    first, again = (list(validation_batches(data)) for _ in range(2))
    assert [batch.names for batch in first] == [
        ["other/0.wav epoch 0 index 0"],
        ["other/2.wav epoch 0 index 1"],
    ]
    assert all(torch.equal(a.waveform, b.waveform) for a, b in zip(first, again, strict=True))
    long = Audio(config(ramps, test=HeldOutAudio([other], clip_seconds=9.0))).validation(5)
    assert next(validation_batches(long)).waveform.shape == (1, RATE)
    assert Audio(config(ramps)).validation(5) is None


def test_validation_clips_that_are_trained_on_are_told(ramps):
    source = Audio(config(ramps, test=HeldOutAudio([ramps], num_clips=9)))
    with pytest.warns(UserWarning, match="6 of the 6 validation clips"):
        source.validation(0)


# Mels from files.


@pytest.fixture
def mel_dir(tmp_path, ramps) -> str:
    """Mels of 3 bands whose values tell the frame; the half second has one frame more."""
    root = tmp_path / "mels"
    root.mkdir()
    for name, frames in [*((str(k), 63) for k in range(5)), ("short", 32 + 1)]:
        np.save(root / f"{name}.npy", np.arange(frames) + 100.0 * np.arange(3)[:, None])
    return str(root)


def with_mels(root: str, mel_dir: str, **changes) -> AudioConfig:
    shape = MelShape(n_mels=3, hop_length=256)
    return config(root, train=AudioDirs([root], mel_dir), mel=shape, **changes)


@pytest.mark.filterwarnings("ignore:.*padded with zeros")
def test_mels_are_cut_to_the_crop_at_frames(ramps, mel_dir):
    data = Audio(with_mels(ramps, mel_dir)).train(0)
    starts = set()
    for epoch in range(40):
        sample = data.sample(epoch, 1)
        start = round(float(sample.waveform[0]) * 2**17) - RATE
        assert start % 256 == 0
        assert sample.mel.dtype == np.float32
        frames = start // 256 + np.arange(32)
        assert np.array_equal(sample.mel, frames + 100.0 * np.arange(3)[:, None])
        starts.add(start)
    assert {min(starts), max(starts)} == {0, (RATE - 8192) // 256 * 256}
    batch = next(train_batches(data, 0, batch_size=6)).to("cpu")
    assert batch.mels.shape == (6, 3, 32)


@pytest.mark.filterwarnings("ignore:.*padded with zeros")
def test_a_mel_of_a_short_clip_goes_on_with_its_smallest_value(make_dir, tmp_path):
    root = make_dir("two", {"a.wav": (ramp(8192), RATE), "b.wav": (ramp(2560), RATE)})
    np.save(tmp_path / "a.npy", np.zeros((3, 32), np.float32))
    np.save(tmp_path / "b.npy", np.full((3, 10), -4.0, np.float32))
    mel = Audio(with_mels(root, str(tmp_path))).train(0).sample(0, 1).mel
    assert mel.shape == (3, 32)
    assert (mel == -4.0).all()


class Pickled:
    """Loading it would fail the test."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@pytest.mark.filterwarnings("ignore:.*padded with zeros")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (None, "has no mel of 1 of 6 files (the first: {}): make them with dataset/script/make"),
        (np.zeros((4, 63)), "{} has 4 bands and 63 frames: (bands, frames) with 3 bands"),
        (np.zeros((63, 3)), "{} has 63 bands and 3 frames: (bands, frames) with 3 bands"),
        (np.zeros((3, 50)), "{} has 50 frames, but 63 are one every data.mel.hop_length=256"),
        (np.zeros((3, 63), np.int32), "{} holds int32 of shape (3, 63): a mel is one array of"),
        (np.zeros(63), "{} holds float64 of shape (63,)"),
        (np.full((3, 63), np.nan), "{} holds NaN or infinity"),
        (np.array([Pickled()]), "{} is damaged, or holds Python objects, which are never loaded"),
        (b"no array", "{} is damaged, or holds Python objects"),
        (b"", "{} cannot be read: No data left in file"),
    ],
)
def test_a_mel_that_does_not_fit_is_named(ramps, mel_dir, tmp_path, wrong, words):
    path = tmp_path / "mels/0.npy"
    if wrong is None:
        path.unlink()
    elif isinstance(wrong, bytes):
        path.write_bytes(wrong)
    else:
        np.save(path, wrong, allow_pickle=True)
    with pytest.raises(UserError, match=re.escape(words.format(path))) as caught:
        Audio(with_mels(ramps, mel_dir)).train(0)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*padded with zeros")
def test_a_wrong_mel_ends_the_run_and_is_not_replaced(ramps, mel_dir, tmp_path):
    np.save(tmp_path / "mels/3.npy", np.zeros((3, 50)))
    data = Audio(with_mels(ramps, mel_dir)).train(0)
    with pytest.raises(UserError, match=r"3\.npy has 50 frames"):
        data.sample(0, 3)


def test_a_crop_that_is_no_multiple_of_the_hop_is_refused_with_the_nearest(ramps, mel_dir):
    wrong = with_mels(ramps, mel_dir, crop_seconds=0.5)
    with pytest.raises(UserError, match=r"gives 8000 samples, no multiple.*take 0\.496000 \(7936"):
        Audio(wrong).train(0)


# Labels.


@pytest.fixture
def digits(make_dir):
    """Return a function that makes two files of each digit."""

    def make(name: str, words=("two", "one", "three")) -> str:
        files = {
            f"{word}/{k}.wav": (np.full(RATE, (1 + place) / 8, np.float32), RATE)
            for place, word in enumerate(words)
            for k in range(2)
        }
        return make_dir(name, files)

    return make


def labelled(train: str, test: str | None = None, **changes) -> LabelledAudioConfig:
    return LabelledAudioConfig(
        train=AudioDirs([train]), test=HeldOutAudio([test] if test else []), **changes
    )


@pytest.mark.filterwarnings("ignore:.*overfitting")
def test_the_label_is_the_first_folder(digits):
    source = LabelledAudio(labelled(digits("train"), digits("test")))
    assert source.labels == ("one", "three", "two")
    batch = next(train_batches(source.train(0), 0, batch_size=6))
    assert isinstance(batch, LabelledBatch)
    assert batch.label.dtype == torch.int64
    loudness = torch.tensor([2 / 8, 3 / 8, 1 / 8])  # of one, three, two
    assert torch.equal(batch.waveform[:, 0], loudness[batch.label])
    assert sorted(batch.label.tolist()) == [0, 0, 1, 1, 2, 2]
    held_out = list(validation_batches(source.validation(0)))
    assert sorted(int(b.label) for b in held_out) == [0, 0, 1, 1, 2, 2]


def test_labels_that_make_no_sense_are_refused(digits, make_dir, tmp_path):
    one, two = digits("one", ["zero"]), digits("two", ["one", "two"])
    loose = make_dir("loose", {"a.wav": (ramp(RATE), RATE)})
    three = digits("three")
    (tmp_path / "three/four").mkdir()
    (tmp_path / "three/.cache").mkdir()
    cases = [
        (labelled(one), "data.train.dir_list has one label, zero: the label is the first folder"),
        (labelled(loose), "loose/a.wav of data.train.dir_list lies in no folder"),
        (labelled(three), "three/four of data.train.dir_list is a folder without files in meta"),
        (labelled(two, one), "data.test.dir_list has the labels zero, and data.train.dir_list one"),
        (labelled(two, three), "three/four of data.test.dir_list is a folder without files"),
    ]
    for wrong, words in cases:
        source = LabelledAudio(wrong)
        build = source.validation if wrong.test.dir_list else source.train
        with pytest.raises(UserError) as caught:
            build(0)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


# Configuration.


def test_files_that_are_all_shorter_than_the_crop_are_refused(ramps):
    with pytest.raises(UserError, match=r"all 6 files of data\.train\.dir_list are shorter"):
        Audio(config(ramps, crop_seconds=2.0)).train(0)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sample_rate": 10}, "data.sample_rate"),
        ({"crop_seconds": 0.0}, "data.crop_seconds"),
        ({"test": HeldOutAudio(num_clips=0)}, "data.test.num_clips"),
        ({"test": HeldOutAudio(clip_seconds=0.0)}, "data.test.clip_seconds"),
        ({"mel": MelShape(hop_length=0)}, "data.mel.hop_length"),
        ({"max_broken_samples": 2.0}, "data.max_broken_samples"),
        ({"train": AudioDirs()}, "data.train.dir_list is empty"),
    ],
)
def test_wrong_values_are_named(ramps, changes, key):
    with pytest.raises(UserError, match=re.escape(key)):
        Audio(config(ramps, **changes)).train(0)


def test_mels_of_validation_are_those_of_training_unless_given():
    start = ["model=demo_feature_cleaner", "data=audio", "data.train.mel_dir=mel256"]
    assert compose_plain(start)["data"]["test"]["mel_dir"] == "mel256"
    other = compose_plain([*start, "data.test.mel_dir=null"])
    assert other["data"]["test"]["mel_dir"] is None


def test_damaged_files_are_replaced_and_told(ramps, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = Audio(config(ramps)).train(0)
    (tmp_path / "ramps/1.wav").write_bytes(b"nothing")
    sample = data.sample(0, 1)
    assert "ramps/1.wav" in sample.broken[0]
    assert len(sample.waveform) in (8000, 8192)
