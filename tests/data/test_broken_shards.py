"""Shards and samples that are damaged: named, left out up to a limit, then an error."""

import io
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from pairs import pair, source, write_shard, write_shards

from open_miipher.base.errors import UserError
from open_miipher.data import train_batches
from open_miipher.shards import StorageError, storage


@pytest.fixture
def urls(tmp_path):
    return write_shards(tmp_path / "train", [5, 3, 4])


def at_int16_scale() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 12000)
    np.save(file, (32768 * noise).astype(np.float32))
    return file.getvalue()


def broken_member(name: str, data: bytes | None) -> dict[str, bytes]:
    members = pair(99)
    if data is None:
        del members[name]
    else:
        members[name] = data
    return members


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("input_wav.npy", None, r"no members input_wav\.\*, but noisy_input_wav\.npy, sr\.index"),
        ("noisy_input_wav.npy", None, r"no members noisy_input_wav\.\*"),
        ("input_wav.pth", b"?", r"2 members input_wav\.\*"),
        ("sr.index", None, "no member sr.index"),
        ("sr.index", b"fast", "sr.index is b'fast', not a whole number of Hz"),
        ("input_wav.npy", pair(1, seconds=0.4)["input_wav.npy"], "differ in length"),
        ("noisy_input_wav.npy", b"garbage", "noisy_input_wav.npy is no waveform"),
        ("input_wav.npy", at_int16_scale(), r"input_wav\.npy reaches 16\d{3}: the full scale"),
    ],
)
def test_a_damaged_sample_is_named_and_another_takes_its_place(tmp_path, name, data, reason):
    samples = {f"key{n:04d}": pair(n) for n in range(9)}
    samples["bad"] = broken_member(name, data)
    url = write_shard(tmp_path / "x.tar", samples)
    dataset = source(url).train(0)
    sample, again = dataset.sample(4, 9), source(url).train(0).sample(4, 9)
    assert len(sample.broken) == 1
    assert sample.broken[0].startswith(f"{url} bad: ")
    assert re.search(reason, sample.broken[0])
    assert np.array_equal(sample.clean, again.clean)
    assert sample.name == again.name
    assert "epoch 4 index 9" in sample.name
    assert dataset.sample(4, 8).broken == []


def test_too_many_damaged_samples_end_the_run(tmp_path):
    samples = {f"key{n:04d}": pair(n, 0.25) for n in range(20)}
    samples["bad"] = broken_member("sr.index", None)
    dataset = source(write_shard(tmp_path / "x.tar", samples), max_broken_samples=0.03).train(0)
    with pytest.raises(UserError, match=r"samples could not be read in \d+ samples, more than "):
        list(islice(train_batches(dataset, 0, 3), 200))
    dataset = source(str(tmp_path / "x.tar"), max_broken_samples=0.06).train(0)
    failures = [b.broken for b in islice(train_batches(dataset, 0, 21), 20)]
    assert all(1 <= len(own) <= 3 for own in failures)  # what takes its place is drawn from all
    assert all(" bad: it has no member sr.index" in failure for own in failures for failure in own)


def test_nothing_but_damage_is_one_error(tmp_path):
    samples = {f"key{n:04d}": broken_member("sr.index", None) for n in range(9)}
    with pytest.raises(UserError, match="8 samples in a row cannot be read; the last: "):
        source(write_shard(tmp_path / "x.tar", samples)).train(0)


def test_another_sample_rate_is_an_error_at_start_and_later(tmp_path):
    other = {f"key{n:04d}": pair(n, sample_rate=48000) for n in range(3)}
    url = write_shard(tmp_path / "other.tar", other)
    with pytest.raises(UserError, match=r"other\.tar key0000: its sample rate is 48000 Hz, but"):
        source(url).train(0)
    good = write_shards(tmp_path / "good", [3])
    dataset = source([*good, url]).train(0)
    with pytest.raises(UserError, match=r"other\.tar key0001: its sample rate is 48000 Hz"):
        dataset.sample(0, 4)


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2]}[kind])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("missing", "does not exist"), ("empty", "is empty"), ("truncated", "unexpected end of data")],
)
def test_a_broken_shard_is_named_and_left_out_up_to_a_limit(urls, kind, reason):
    damage(Path(urls[1]), kind)
    with pytest.warns(UserWarning, match=rf"shard-001\.tar.*{reason}.*left out"):
        data = source(urls).train(0)
    assert data.num_items == 9
    with pytest.raises(UserError, match=rf"shard-001\.tar(.|\n)*{reason}(.|\n)*1 of 3 shards of"):
        source(urls, max_broken_shards=0).train(0)


def test_without_any_whole_shard_there_is_no_run(urls):
    for url in urls:
        damage(Path(url), "truncated")
    with pytest.raises(UserError, match="3 problems"):
        source(urls, max_broken_shards=9).train(0)


def test_a_shard_that_is_cut_later_costs_its_samples(urls):
    dataset = source(urls, max_broken_samples=1.0).train(0)
    damage(Path(urls[0]), "truncated")
    batches = list(islice(train_batches(dataset, 0, 12), 1))
    failures = [failure for batch in batches for failure in batch.broken]
    assert 2 <= len(failures) < 12
    assert all("shard-000.tar is truncated: sample " in failure for failure in failures)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_storage_that_fails_is_never_a_broken_sample(urls, monkeypatch, num_workers):
    dataset = source(urls, max_broken_samples=1.0).train(0)

    def refuse(self, url, start, end):
        raise StorageError(f"{url} cannot be reached")

    monkeypatch.setattr(storage.Storage, "read", refuse)
    with pytest.raises(StorageError, match="cannot be reached"):
        next(train_batches(dataset, 0, 4, num_workers=num_workers))
    with pytest.raises(StorageError, match="cannot be reached"):
        source(urls).train(0)
