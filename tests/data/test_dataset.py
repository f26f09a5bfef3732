"""Samples: a function of seed, epoch and index; crops, augmentation, pairs."""

import dataclasses
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.data import (
    AugmentConfig,
    CropConfig,
    DataConfig,
    HeldOutSource,
    TrainSource,
    build_test_data,
    build_train_data,
)
from open_miipher.data.dataset import augmented
from open_miipher.degradation import STAGES, DegradationConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*upper band is empty")
PLAIN = AugmentConfig(shift_seconds=0.0, polarity_probability=0.0, volume_db=(0.0, 0.0))


def config(speech_dir: str, **changes) -> DataConfig:
    some = {
        name: {"name": name, "probability": 0.5}
        for name in ("reverb", "noise", "hard_clipping", "mu_law", "packet_loss")
    }
    return dataclasses.replace(
        DataConfig(
            crop_seconds=0.5,
            train=TrainSource([speech_dir]),
            test=HeldOutSource([speech_dir], num_clips=3, clip_seconds=0.4),
            degradation=DegradationConfig(some),
        ),
        **changes,
    )


def test_a_sample_is_a_function_of_seed_epoch_and_index(speech_dir):
    dataset = build_train_data(config(speech_dir), seed=7)
    first = dataset.sample(2, 3)
    dataset.sample(0, 0)
    again = build_train_data(config(speech_dir), seed=7).sample(2, 3)
    assert np.array_equal(first.clean, again.clean)
    assert np.array_equal(first.damaged, again.damaged)
    assert (first.name, first.drawn) == (again.name, again.drawn)
    assert first.name == "speech/s3/3.wav epoch 2 index 3"
    for other in (
        dataset.sample(3, 3),
        build_train_data(config(speech_dir), seed=8).sample(2, 3),
    ):
        assert not np.array_equal(first.clean, other.clean)


def test_positions_follow_the_order(speech_dir):
    dataset = build_train_data(config(speech_dir), seed=7)
    assert dataset.num_items == 6
    for position in (0, 5, 6, 13):
        assert np.array_equal(
            dataset[position].clean, dataset.sample(*dataset.order.at(position)).clean
        )


def test_files_are_drawn_by_their_duration_if_asked(make_dir):
    """Of a minute and of two seconds: thirty to one, in two directories and at two rates."""
    long = make_dir("long", {"a.wav": (np.ones(60 * 1000, np.float32), 1000)})
    short = make_dir("short", {f"{n}.wav": (np.ones(2 * 2000, np.float32), 2000) for n in range(9)})
    given = config(long, train=TrainSource([long, short]), draw_by="duration")
    dataset = build_train_data(given, seed=7)
    assert dataset.num_items == 10
    drawn = []
    for epoch in range(20):
        names = [dataset.sample(epoch, index).name.split(" epoch ")[0] for index in range(10)]
        assert names.count("long/a.wav") in (7, 8)  # of 7.7
        drawn += names
    counts = Counter(drawn)
    assert 150 <= counts.pop("long/a.wav") <= 158
    assert len(counts) == 9
    again = build_train_data(given, seed=7).sample(3, 4)
    assert np.array_equal(again.clean, dataset.sample(3, 4).clean)
    numbers = [dataset._files.number_at(share) for share in (0.0, 0.769, 0.770, 0.9999, 1.0)]
    assert numbers == [0, 0, 1, 9, 9]


def test_pairs_are_equally_long_and_never_the_same_memory(speech_dir):
    dataset = build_train_data(config(speech_dir, degradation=DegradationConfig()), seed=0)
    for position in range(6):
        sample = dataset[position]
        assert sample.clean.shape == sample.damaged.shape
        assert len(sample.clean) <= 12000
        assert np.array_equal(sample.clean, sample.damaged)
        assert not np.may_share_memory(sample.clean, sample.damaged)


def test_damaging_leaves_the_clean_crop_alone(speech_dir):
    stages = [name for name in STAGES if name != "noise_alone"]  # its target is silence
    every = DegradationConfig({name: {"name": name} for name in stages}, max_stages=len(stages))
    plain = build_train_data(config(speech_dir, degradation=DegradationConfig()), seed=0)
    damaging = build_train_data(config(speech_dir, degradation=every), seed=0)
    for position in range(6):
        assert np.array_equal(plain[position].clean, damaging[position].clean)
        assert len(damaging[position].drawn) == len(stages)


def test_short_files_are_whole_and_long_ones_cropped(speech_dir):
    dataset = build_train_data(config(speech_dir, augment=PLAIN), seed=0)
    lengths = [len(dataset.sample(0, index).clean) for index in range(6)]
    assert lengths == [12000, 7200, 12000, 12000, 12000, 1200]


def test_the_crop_is_where_the_sample_says(make_dir):
    ramp = np.arange(48000, dtype=np.float32) / 48000
    data = config(make_dir("ramp", {"a.wav": (ramp, 24000)}), augment=PLAIN)
    for epoch in range(4):
        sample = build_train_data(data, seed=0).sample(epoch, 0)
        start = round(sample.start_seconds * 24000)
        assert np.array_equal(sample.clean, ramp[start : start + 12000])


def test_near_silence_is_drawn_again(make_dir):
    rng = np.random.default_rng(0)
    waveform = 1e-5 * rng.standard_normal(240000).astype(np.float32)
    waveform[96000:156000] *= 1e4  # a quarter is loud
    root = make_dir("speech", {"a.wav": (waveform, 24000)})

    def loud_share(num_candidates: int) -> float:
        crop = CropConfig(num_candidates, min_level_db=-50.0)
        dataset = build_train_data(config(root, augment=PLAIN, crop=crop), seed=0)
        crops = [dataset.sample(epoch, 0).clean for epoch in range(100)]
        return float(np.mean([np.mean(c**2.0) > 1e-5 for c in crops]))

    assert loud_share(1) < 0.5
    assert loud_share(10) > 0.9


def test_the_loudest_is_taken_when_all_are_quiet(make_dir):
    waveform = np.full(48000, 1e-6, np.float32)
    waveform[:24000] = 1e-5
    root = make_dir("speech", {"a.wav": (waveform, 24000)})
    crop = CropConfig(num_candidates=20, min_level_db=-50.0)
    dataset = build_train_data(config(root, augment=PLAIN, crop=crop), seed=0)
    assert dataset.sample(0, 0).clean.mean() == pytest.approx(1e-5, rel=0.3)


def test_augmentation_draws_shift_sign_and_gain():
    crop = np.ones(100, np.float32)
    settings = AugmentConfig(shift_seconds=0.05, polarity_probability=0.5, volume_db=(-6.0, 0.0))
    rng = np.random.default_rng(0)
    results = [augmented(crop, 140, 1000, settings, rng) for _ in range(300)]
    shifts = [len(result) - 100 for result in results]
    gains = np.array([result[-1] for result in results])
    assert (min(shifts), max(shifts)) == (0, 40)  # what the crop leaves, less than asked
    assert all(not result[: len(result) - 100].any() for result in results)
    assert 0.4 < np.mean(gains < 0) < 0.6
    assert 0.5 <= np.abs(gains).min() < 0.55
    assert 0.95 < np.abs(gains).max() <= 1.0
    assert np.array_equal(crop, np.ones(100))


def test_recorded_noise_and_rooms_are_used(speech_dir, make_dir):
    noise = make_dir("noise", {"hum.wav": (np.ones(5000, np.float32), 24000)})
    rooms = make_dir("rooms", {"hall.wav": (np.ones(3, np.float32), 24000)})
    both = DegradationConfig({"reverb": {"name": "reverb"}, "noise": {"name": "noise"}})
    data = config(speech_dir, degradation=both, train=TrainSource([speech_dir], [noise], [rooms]))
    drawn = build_train_data(data, seed=0)[0].drawn
    assert drawn[0]["source"] == "rooms/hall.wav channel 0"
    assert drawn[1]["source"].startswith("noise/hum.wav channel 0 from")


def test_direct_target_changes_the_clean_side(speech_dir):
    stage = {"name": "reverb", "target": "direct", "direct_to_reverb_db": [12.0, 12.0]}
    data = config(speech_dir, augment=PLAIN, degradation=DegradationConfig({"reverb": stage}))
    dry = config(speech_dir, augment=PLAIN, degradation=DegradationConfig())
    moved, clean = build_train_data(data, 0).sample(0, 2), build_train_data(dry, 0).sample(0, 2)
    assert not np.allclose(moved.clean, clean.clean)
    assert np.corrcoef(moved.clean, clean.clean)[0, 1] > 0.95


@pytest.mark.parametrize(
    "how", ["inside", "around", "link", "linked file", "hard link", "dots", "copy", "renamed copy"]
)
def test_validation_clips_that_are_trained_on_are_told(make_dir, tmp_path, how):
    """Only the very same directory was."""
    rng = np.random.default_rng(0)
    waveforms = [rng.uniform(-0.5, 0.5, 2400 + k).astype(np.float32) for k in range(4)]
    tested = {f"{k}.wav": (waveforms[k], 24000) for k in range(2)}
    other = {"other.wav": (waveforms[2], 24000)}
    if how == "inside":
        test = make_dir("train/deep/test", tested)
        train = make_dir("train", {f"deep/test/{name}": w for name, w in tested.items()} | other)
    elif how == "around":
        train = make_dir("test/train", {"1.wav": tested["1.wav"]})
        test = make_dir("test", {"train/1.wav": tested["1.wav"]} | other)
    else:
        test = make_dir("test", tested)
        named = {"renamed copy": "a.wav", "link": "linked/1.wav"}.get(how, "1.wav")
        train = make_dir("train", {named: tested["1.wav"]} | other)
        file = tmp_path / "train" / named
        if how == "dots":
            train = f"{train}/../test"
        elif "copy" in how:  # libsndfile writes the time into WAV files of floats
            shutil.copyfile(tmp_path / "test/1.wav", file)
        elif "link" in how:
            file.unlink()
            if how == "link":
                file.parent.rmdir()
                file.parent.symlink_to("../test")
            elif how == "linked file":
                file.symlink_to("../test/1.wav")
            else:
                file.hardlink_to(tmp_path / "test/1.wav")
    data = config(train, test=HeldOutSource([test], num_clips=9))
    with pytest.warns(UserWarning, match=r"[12] of the 2 validation clips, .*overfitting"):
        build_test_data(data, 0)


def test_other_files_of_a_length_and_files_left_out_of_an_index_are_not(make_dir):
    waveforms = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 2400)).astype(np.float32)
    test = make_dir("train/test", {"0.wav": (waveforms[0], 24000)})
    train = make_dir("train", {f"{k}.wav": (waveforms[k], 24000) for k in (1, 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_test_data(config(train, test=HeldOutSource([test])), 0)


def test_floats_at_the_scale_of_integers_are_refused(make_dir):
    waveform = np.random.default_rng(0).normal(0, 3000, 24000).astype(np.float32)
    data = config(make_dir("speech", {"a.wav": (waveform, 24000)}))
    with pytest.raises(UserError, match=r"a\.wav reaches 1\d{4}: the full scale of floats is 1"):
        build_train_data(data, 0).sample(0, 0)


def test_validation_clips_are_fixed_spread_and_not_augmented(speech_dir):
    with pytest.warns(UserWarning, match=r"data\.train\.dir_list and in data\.test\.dir_list"):
        dataset = build_test_data(config(speech_dir), seed=1)
    assert dataset.num_items == 3
    names = [dataset[k].name for k in range(3)]
    assert names == [f"speech/s{k}/{k}.wav epoch 0 index {n}" for n, k in enumerate([0, 2, 4])]
    assert [len(dataset[k].clean) for k in range(3)] == [9600] * 3


def test_another_directory_gives_no_warning(speech_dir, make_dir):
    other = make_dir("other", {"a.wav": (np.ones(100, np.float32), 24000)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = build_test_data(config(speech_dir, test=HeldOutSource([other])), seed=1)
    assert dataset.num_items == 1
    assert len(dataset[0].clean) == 100


def test_narrow_speech_and_rooms_are_warned_of(speech_dir, make_dir):
    rooms = make_dir("rooms", {"hall.wav": (np.ones(3, np.float32), 16000)})
    with pytest.warns(UserWarning, match="lower rate") as caught:
        build_train_data(config(speech_dir, train=TrainSource([speech_dir], [], [rooms])), seed=0)
    messages = " ".join(str(warning.message) for warning in caught)
    assert "2 of 6 files of data.train.dir_list have a lower rate" in messages
    assert "1 of 1 files of data.train.rir_dir_list have a lower rate" in messages


@pytest.mark.parametrize("part", ["train", "test"])
def test_no_speech_is_an_error(part, speech_dir):
    empty = {"train": TrainSource(), "test": HeldOutSource()}[part]
    build = {"train": build_train_data, "test": build_test_data}[part]
    with pytest.raises(UserError, match=rf"data\.{part}\.dir_list is empty"):
        build(config(speech_dir, **{part: empty}), seed=0)


def test_all_wrong_numbers_are_named_at_once(speech_dir):
    wrong = config(
        speech_dir,
        crop_seconds=0.0,
        crop=CropConfig(num_candidates=0),
        augment=AugmentConfig(volume_db=(3.0, -3.0)),
    )
    with pytest.raises(UserError) as caught:
        build_train_data(wrong, seed=0)
    for key in ("data.crop_seconds", "data.crop.num_candidates", "data.augment.volume_db"):
        assert key in str(caught.value)
