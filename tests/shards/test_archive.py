"""Shards: what is written is read, by us and by webdataset; what is damaged is named."""

import io
import tarfile

import numpy as np
import pytest
import webdataset

from open_miipher.base.atomic import is_temporary, remove_leftovers
from open_miipher.shards import (
    Sample,
    ShardError,
    ShardWriter,
    Storage,
    read_index,
    read_samples,
    visit_members,
)

SAMPLES = [
    Sample(f"folder/key{number:03d}", {"a.npy": bytes([number]) * (700 + number), "txt": b"words"})
    for number in range(25)
]


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "x.tar"
    with ShardWriter(path) as writer:
        for sample in SAMPLES:
            writer.add(sample)
    return path


def pack(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def test_samples_come_back_one_by_one_and_in_a_stream(shard):
    index = read_index(Storage(), str(shard))
    assert [index.read(Storage(), number) for number in range(len(index))] == SAMPLES
    with shard.open("rb") as file:
        assert list(read_samples(file, str(shard))) == SAMPLES


def test_webdataset_reads_our_shards_and_we_read_its(shard, tmp_path):
    seen = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [(s["__key__"], s["a.npy"]) for s in seen] == [
        (s.key, s.members["a.npy"]) for s in SAMPLES
    ]
    other = tmp_path / "other.tar"
    with webdataset.TarWriter(str(other), encoder=False) as writer:
        for sample in SAMPLES:
            writer.write({"__key__": sample.key, **sample.members})
    index = read_index(Storage(), str(other))
    read = [index.read(Storage(), number) for number in range(len(index))]
    assert [(s.key, dict(s.members)) for s in read] == [(s.key, s.members) for s in SAMPLES]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_foreign_shard_is_read_whatever_its_format(tmp_path, suffix):
    name = "long/" + "n" * 150 + "é"
    mode = "w:gz" if suffix == ".tar.gz" else "w"
    members = [(f"{name}.x", b"1"), (f"{name}.y", b""), ("b.x", b"22"), ("__meta__", b"no")]
    path = pack(tmp_path / f"y{suffix}", members, mode)
    with path.open("rb") as file:
        samples = [(s.key, dict(s.members)) for s in read_samples(file, str(path))]
    assert samples == [(name, {"x": b"1", "y": b""}), ("b", {"x": b"22"})]
    if suffix == ".tar":
        index = read_index(Storage(), str(path))
        assert [index.read(Storage(), k).key for k in range(len(index))] == [name, "b"]


def test_its_own_index_is_equal_to_reading_all_headers(shard, monkeypatch):
    own = read_index(Storage(), str(shard)).bounds
    monkeypatch.setattr("open_miipher.shards.archive._own_bounds", lambda *_: None)
    scanned = read_index(Storage(), str(shard)).bounds
    assert (own == scanned).all()


def test_the_bytes_depend_on_the_samples_alone(shard, tmp_path):
    again = tmp_path / "again" / "z.tar"
    again.parent.mkdir()
    with ShardWriter(again) as writer:
        for sample in SAMPLES:
            writer.add(sample)
    assert again.read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("kept", range(1, 30))
def test_a_truncated_shard_is_named_wherever_it_ends(shard, tmp_path, kept):
    whole = shard.read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: (len(whole) - 10240) * kept // 30])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        read_index(Storage(), str(path))
    with pytest.raises(ShardError, match=r"cut\.tar"), path.open("rb") as file:
        list(read_samples(file, str(path)))


def test_a_shard_cut_behind_a_whole_member_is_truncated(shard, tmp_path):
    bound = int(read_index(Storage(), str(shard)).bounds[7])
    path = tmp_path / "cut.tar"
    path.write_bytes(shard.read_bytes()[:bound])
    with pytest.raises(ShardError, match="end-of-archive mark is missing"):
        read_index(Storage(), str(path))


def test_a_truncated_compressed_shard_is_named(tmp_path):
    noise = np.random.default_rng(0).bytes(9000)
    path = pack(tmp_path / "y.tar.gz", [("a.x", noise), ("b.x", noise)], "w:gz")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ShardError, match=r"y\.tar\.gz"), path.open("rb") as file:
        list(read_samples(file, str(path)))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../a.x", b"1")], "leads out of the shard"),
        ([("/etc/a.x", b"1")], "leads out of the shard"),
        ([("../README", b"1")], "leads out of the shard"),
        ([("/._a.x", b"1")], "leads out of the shard"),
        ([("a\udcff.x", b"1"), ("a\udcff.x", b"2")], r"a\\xff\.x stands there twice"),
        ([("a\udcff.x", b"1"), ("b.x", b"2"), ("a\udcff.y", b"3")], r"of a\\xff do not"),
        ([("../\udcff.x", b"1")], r"'\.\./\\xff\.x' leads out"),
        ([("a.x", b"1"), ("b.x", b"2"), ("a.y", b"3")], "do not stand together"),
        ([("a.x", b"1"), ("a.x", b"2")], "twice"),
    ],
)
def test_a_malformed_shard_is_refused(tmp_path, members, reason):
    path = pack(tmp_path / "bad.tar", members)
    with pytest.raises(ShardError, match=reason) as caught, path.open("rb") as file:
        list(read_samples(file, str(path)))
    assert str(caught.value).isprintable()


MAC = {name: name.encode() * 300 for name in ("._a.x", ".DS_Store", "README", "d/._b.x", ".x")}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("places", [(0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)])
def test_members_of_no_sample_are_passed_over(tmp_path, places, format, monkeypatch):
    """Between two samples, inside one, before the first and behind the last."""
    monkeypatch.setattr(tarfile.TarFile, "format", format)
    plain = [("a.x", b"1" * 700), ("a.y", b"2"), ("d/b.x", b"3"), ("d/b.y", b"4" * 512)]
    members = [
        member
        for place in range(5)
        for member in [*(MAC.items() if place in places else ()), *plain[place : place + 1]]
    ]
    members.insert(0, ("n" * 120 + "/README", b"long"))  # its header is several
    path = pack(tmp_path / "mac.tar", members)
    expected = [("a", dict(x=plain[0][1], y=b"2")), ("d/b", dict(x=b"3", y=plain[3][1]))]
    with path.open("rb") as file:
        assert [(s.key, dict(s.members)) for s in read_samples(file, str(path))] == expected
    index = read_index(Storage(), str(path))
    read = [index.read(Storage(), number) for number in range(len(index))]
    assert [(s.key, dict(s.members)) for s in read] == expected
    visited = []
    with path.open("rb") as file:
        visit_members(file, str(path), lambda key, name, data: visited.append((key, name)))
    assert visited == [("a", "x"), ("a", "y"), ("d/b", "x"), ("d/b", "y")]


def test_webdataset_passes_over_the_same_members(tmp_path):
    members = [("._a.x", b"mac"), ("a.x", b"1"), ("README", b"words"), (".DS_Store", b"mac")]
    path = pack(tmp_path / "mac.tar", [*members, ("a.y", b"2"), ("d/README", b""), ("b.x", b"3")])
    with path.open("rb") as file:
        ours = [{"__key__": s.key, **s.members} for s in read_samples(file, str(path))]
    seen = webdataset.WebDataset(str(path), shardshuffle=False)
    theirs = [{k: v for k, v in s.items() if k in ("__key__", "x", "y")} for s in seen]
    assert ours == theirs == [{"__key__": "a", "x": b"1", "y": b"2"}, {"__key__": "b", "x": b"3"}]


def test_a_shard_with_such_members_alone_holds_no_samples(tmp_path):
    path = pack(tmp_path / "mac.tar", MAC.items())
    with pytest.raises(ShardError, match="holds no samples"):
        read_index(Storage(), str(path))
    with path.open("rb") as file:
        assert list(read_samples(file, str(path))) == []


@pytest.mark.parametrize("name", ["a.x", "README", "._a.x", "\udcff.x"])
def test_links_are_refused(tmp_path, name):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        header = tarfile.TarInfo(name)
        header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(header)
    with pytest.raises(ShardError, match="is a link") as caught:
        read_index(Storage(), str(path))
    assert str(caught.value).isprintable()


def test_empty_missing_and_compressed_shards_are_named(tmp_path):
    empty, archive = tmp_path / "e.tar", pack(tmp_path / "n.tar", [])
    empty.touch()
    for url, reason in [
        (empty, "is empty"),
        (archive, "holds no samples"),
        (tmp_path / "no.tar", "does not exist"),
        (tmp_path / "y.tar.gz", "compressed"),
    ]:
        with pytest.raises(Exception, match=reason) as caught:
            read_index(Storage(), str(url))
        assert str(url) in str(caught.value)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_a_shard_is_read_in_order_however_it_is_compressed_and_called(tmp_path, name, mode):
    path = pack(tmp_path / name, [("a.x", b"1"), ("a.y", b"2"), ("b.x", b"3")], mode)
    with path.open("rb") as file:
        assert [s.key for s in read_samples(file, str(path))] == ["a", "b"]
    found = []
    with path.open("rb") as file:
        visit_members(file, str(path), lambda key, _, data: found.append((key, data.read())))
    assert found == [("a", b"1"), ("a", b"2"), ("b", b"3")]
    if mode == "w:gz" and name == "x.tar":
        with pytest.raises(ShardError, match=r"x\.tar is gzipped, so its samples cannot"):
            read_index(Storage(), str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html>\n<html><body>Not found" * 99, "it is a web page"),
        (b'{"error": "denied"}', "it is JSON"),
        (b"PK\3\4" + bytes(2000), "it is a zip archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "it is compressed with zstd"),
    ],
)
def test_what_is_no_shard_is_called_by_what_it_is(tmp_path, content, says):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"x\.tar cannot be read as a shard: {says}"):
        read_index(Storage(), str(path))
    with pytest.raises(ShardError, match=says), path.open("rb") as file:
        list(read_samples(file, str(path)))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write_and_fail():
        with ShardWriter(tmp_path / "x.tar") as writer:
            writer.add(SAMPLES[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_with_a_long_name_is_written(tmp_path):
    path = tmp_path / f"{'n' * 246}.tar"
    with ShardWriter(path) as writer:
        writer.add(SAMPLES[0])
    assert list(tmp_path.iterdir()) == [path]
    assert read_index(Storage(), str(path)).read(Storage(), 0) == SAMPLES[0]


def test_leftovers_of_a_long_name_are_removed_and_no_others(tmp_path):
    path, other = (tmp_path / f"{letter * 246}.tar" for letter in "nm")
    writer = ShardWriter(path)  # and never finished
    (left,) = tmp_path.iterdir()
    assert is_temporary(left.name)
    remove_leftovers([other])
    assert left.exists()
    remove_leftovers([path])
    assert list(tmp_path.iterdir()) == []
    writer.__exit__(RuntimeError, RuntimeError())
