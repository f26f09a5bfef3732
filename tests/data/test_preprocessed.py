"""Pairs from shards: each once an epoch, and the same whoever reads."""

import io
import sys
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3
from pairs import RATE, pair, source, write_shard, write_shards

from open_miipher.base.errors import UserError
from open_miipher.data import ClipsConfig, train_batches, validation_batches
from open_miipher.data.batch import PairBatch
from open_miipher.shards import S3Config


@pytest.fixture
def urls(tmp_path):
    return write_shards(tmp_path / "train", [5, 3, 4])


def keys(batch) -> list[str]:
    return [name.split(" epoch ")[0].split()[1] for name in batch.names]


def contents(batches) -> dict[int, tuple]:
    """Every sample of the batches by its position."""
    return {
        int(batch.positions[k]): (
            batch.names[k],
            batch.clean[k].numpy().tobytes(),
            batch.damaged[k].numpy().tobytes(),
        )
        for batch in batches
        for k in range(len(batch.names))
    }


def test_an_epoch_holds_every_pair_once_in_another_order(urls, tmp_path):
    data = source(str(tmp_path / "train")).train(seed=3)
    orders = []
    for epoch in range(3):
        batches = islice(train_batches(data, epoch * 12, batch_size=4), 3)
        orders.append([key for batch in batches for key in keys(batch)])
        assert sorted(orders[-1]) == [f"key{n:04d}" for n in range(12)]
    assert orders[0] != orders[1] != orders[2]


def test_pairs_are_drawn_by_their_length_if_asked(tmp_path):
    long = write_shards(tmp_path / "long", [1], seconds=4.0)
    short = write_shards(tmp_path / "short", [4, 2], seconds=1.0)
    data = source([*long, *short], draw_by="duration").train(seed=3)
    drawn = [data.sample(epoch, k).name.split()[0] for epoch in range(20) for k in range(7)]
    share = Counter(drawn)[long[0]] / len(drawn)
    assert share == pytest.approx(0.4, abs=0.04)
    pairs = data._pairs
    assert {pairs.number_at(share) for share in np.linspace(0, 1, 200)} == set(range(7))


def test_both_sides_are_the_same_crop_of_what_the_shard_holds(urls):
    data = source(urls).train(seed=0)
    starts = set()
    for epoch in range(3):
        sample = data.sample(epoch, 7)  # the third of the second shard
        whole = np.load(io.BytesIO(pair(7)["input_wav.npy"]))
        start = round(sample.start_seconds * RATE)
        assert sample.name == f"{urls[1]} key0007 epoch {epoch} index 7"
        assert sample.clean.shape == sample.damaged.shape == (4800,)
        assert np.array_equal(sample.clean, whole[start : start + 4800])
        assert np.abs(sample.damaged - sample.clean / 2).max() <= 1
        starts.add(start)
    assert len(starts) == 3


def test_pairs_of_the_original_layout_are_read(tmp_path):
    rng = np.random.default_rng(0)
    clean = rng.standard_normal((1, 9600)).astype(np.float32)
    members = {}
    for name, tensor in (("input_wav", clean), ("noisy_input_wav", clean / 4)):
        file = io.BytesIO()
        torch.save(torch.from_numpy(tensor), file)
        members[f"{name}.pth"] = file.getvalue()
    others = {"input_wav_lens.pth": b"?", "ssl_inputs.pickle": b"?", "names.pickle": b"?"}
    url = write_shard(tmp_path / "x.tar", {"a": {**others, **members, "sr.index": b"24000"}})
    sample = source(url, crop_seconds=1.0).train(0).sample(0, 0)
    assert np.array_equal(sample.clean, clean[0])
    assert np.array_equal(sample.damaged, clean[0] / 4)


@pytest.mark.parametrize("extension", ["npy", "flac"])
def test_one_channel_of_several_is_drawn_the_same_of_both(tmp_path, extension):
    import soundfile

    members = {"sr.index": b"24000"}
    for name, gain in (("input_wav", 8), ("noisy_input_wav", 4)):
        array = np.repeat(np.array([[1000 * gain], [2000 * gain]], np.int16), 4000, axis=1)
        file = io.BytesIO()
        if extension == "npy":
            np.save(file, array)
        else:
            soundfile.write(file, array.T, RATE, format="FLAC")
        members[f"{name}.{extension}"] = file.getvalue()
    data = source(write_shard(tmp_path / "x.tar", {"a": members})).train(0)
    batch = PairBatch.join([(e, data.sample(e, 0)) for e in range(20)], None).to("cpu")
    levels = zip(batch.clean[:, 0].tolist(), batch.damaged[:, 0].tolist(), strict=True)
    expected = {(8000 / 32768, 4000 / 32768), (16000 / 32768, 8000 / 32768)}
    assert set(levels) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_integers_stay_so_up_to_the_device(tmp_path, num_workers):
    """With one sample of floats among them, all are floats from the start."""
    integers = {
        "input_wav.npy": array(2400, np.int16),
        "noisy_input_wav.npy": array(1200, np.int16),
    }
    floats = {"input_wav.npy": array(0.5, np.float32), "noisy_input_wav.npy": array(1, np.float32)}
    for name, second, dtype in (("a", integers, torch.int16), ("b", floats, torch.float32)):
        samples = {"x": {**integers, "sr.index": b"24000"}, "y": {**second, "sr.index": b"24000"}}
        data = source(write_shard(tmp_path / f"{name}.tar", samples)).train(0)
        batch = next(train_batches(data, 0, 2, num_workers=num_workers))
        assert batch.clean.dtype == batch.damaged.dtype == dtype
        moved = batch.to("cpu")
        assert moved.clean.dtype == moved.damaged.dtype == torch.float32
        levels = {
            (clean[0].item(), damaged[0].item())
            for clean, damaged in zip(moved.clean, moved.damaged, strict=True)
        }
        others = {(0.5, 1.0)} if second is floats else set()
        assert levels == {(2400 / 32768, 1200 / 32768)} | others
        assert not moved.clean[:, 2000:].any()


def array(value: float, dtype: type) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(2000, value, dtype))
    return file.getvalue()


def test_short_pairs_are_taken_whole_and_padded(tmp_path):
    url = write_shards(tmp_path, [2], seconds=0.1)[0]
    batch = next(train_batches(source(url).train(0), 0, 2))
    assert batch.clean.shape == (2, 4800)
    assert batch.lengths.tolist() == [2400, 2400]
    assert not batch.clean[:, 2400:].any()


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_ranks_and_workers_share_one_stream(urls, num_ranks, num_workers):
    data = source(urls).train(seed=1)
    expected = contents(islice(train_batches(data, 0, 4), 9))
    batches = []
    for rank in range(num_ranks):
        batches += islice(train_batches(data, 0, 4, 1, rank, num_ranks, num_workers), 9)
    assert contents(batches) == expected
    assert Counter(key for batch in batches for key in keys(batch)) == {
        f"key{n:04d}": 3 for n in range(12)
    }


def test_a_resumed_run_goes_on_with_the_next_sample_also_with_other_ranks(urls):
    unbroken = contents(islice(train_batches(source(urls).train(5), 0, 4), 8))
    first = contents(islice(train_batches(source(urls).train(5), 0, 4), 3))
    later = []
    for rank in range(2):
        later += islice(train_batches(source(urls).train(5), 12, 4, 1, rank, 2), 5)
    assert {**first, **contents(later)} == unbroken


def test_moved_shards_are_the_same_data_changed_ones_are_not(tmp_path, urls):
    own = source(urls).train(0).fingerprint
    (tmp_path / "train").rename(tmp_path / "moved")
    moved = [url.replace("/train/", "/moved/") for url in urls]
    assert source(moved).train(0).fingerprint == own
    assert source(moved).train(1).fingerprint == own
    assert source(moved[:2]).train(0).fingerprint != own
    write_shards(tmp_path / "moved", [5, 3, 5])
    assert source(moved).train(0).fingerprint != own


def test_validation_is_the_same_clips_from_all_shards(tmp_path, urls):
    val = write_shards(tmp_path / "val", [4, 6], seconds=0.4, extension="flac")
    data = source(urls, val, test=ClipsConfig(num_clips=5, clip_seconds=0.3)).validation(0)
    shares = [list(validation_batches(data, rank, 2)) for rank in range(2)]
    batches = [batch for share in shares for batch in share]
    assert sorted(key for b in batches for key in keys(b)) == [
        f"key{n:04d}" for n in (0, 2, 4, 6, 8)
    ]
    assert all(b.clean.shape == (1, 7200) for b in batches)
    assert contents(batches) == contents(validation_batches(data))
    assert source(urls).validation(0) is None


def test_shards_of_both_may_not_overlap(tmp_path, urls):
    (tmp_path / "link").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match=r"link/shard-001\.tar is in data\.train_urls and in"):
        source(urls, f"{tmp_path}/link/shard-001.tar").train(0)
    copy = tmp_path / "other" / "name.tar"
    copy.parent.mkdir()
    copy.write_bytes(Path(urls[2]).read_bytes())
    with pytest.raises(UserError, match=r"name\.tar of data\.val_urls is a copy of .*-002\.tar"):
        source(urls, str(copy)).validation(0)
    others = {f"key{n:04d}": pair(n) for n in range(50, 54)}  # as long, other content
    source(urls, write_shard(copy, others)).validation(0)


def test_a_foreign_shard_without_an_index_is_read_the_same(tmp_path, urls):
    foreign = tmp_path / "foreign" / "shard-000.tar"
    foreign.parent.mkdir()
    with tarfile.open(foreign, "w") as tar:
        for n in range(5):
            for name, data in pair(n).items():
                header = tarfile.TarInfo(f"key{n:04d}.{name}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    own, other = source(urls[0]).train(0), source(str(foreign)).train(0)
    for index in range(5):
        assert np.array_equal(own.sample(1, index).clean, other.sample(1, index).clean)
    assert own.num_items == other.num_items == 5


def test_workers_read_objects_as_they_read_files(tmp_path, urls, monkeypatch):
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    local = source(urls).train(0)
    with s3.running_store() as store:
        uris = [store.upload(url, Path(url).name) for url in urls]
        reached = S3Config(store.endpoint_url, retries=0)
        with pytest.raises(UserError, match=r"shard-000\.tar is no s3:// URI"):
            source(urls, is_s3=True, s3=reached).train(0)
        remote = source(uris, is_s3=True, s3=reached).train(0)
        assert remote.fingerprint == local.fingerprint
        batches = list(islice(train_batches(remote, 0, 4, num_workers=2), 4))
    expected = list(islice(train_batches(local, 0, 4), 4))
    for own, other in zip(batches, expected, strict=True):
        assert torch.equal(own.clean, other.clean)
        assert torch.equal(own.damaged, other.damaged)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"crop_seconds": 0.0}, "data.crop_seconds"),
        ({"max_broken_samples": 2.0}, "data.max_broken_samples"),
        ({"max_broken_shards": -1}, "data.max_broken_shards"),
        ({"test": ClipsConfig(0)}, "data.test.num_clips"),
        ({"train_urls": []}, "data.train_urls is empty"),
    ],
)
def test_wrong_keys_are_named(urls, changes, key):
    with pytest.raises(UserError, match=key):
        source(**{"train_urls": urls, **changes}).train(0)
