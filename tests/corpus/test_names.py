"""Every input has an output of its own, for ever."""

import itertools
import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from open_miipher.corpus.inputs import assign_names
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.tars import Groups


def test_the_tree_is_mirrored() -> None:
    names = assign_names(["a/x.wav", "b/x.wav", "c.d/e.f.mp3"], {}, "wav")
    assert names == {"a/x.wav": "a/x.wav", "b/x.wav": "b/x.wav", "c.d/e.f.mp3": "c.d/e.f.wav"}


def test_a_name_taken_twice_keeps_the_inputs_extension() -> None:
    names = assign_names(["a/x.wav", "b/x.wav", "a/x.flac"], {}, "wav")
    assert names == {"a/x.wav": "a/x.wav", "b/x.wav": "b/x.wav", "a/x.flac": "a/x.flac.wav"}


def test_even_the_longer_name_may_be_taken() -> None:
    inputs = ["x.wav", "x.flac", "x.flac.wav"]
    names = assign_names(inputs, {}, "wav")
    assert len(set(names.values())) == 3
    assert names["x.flac.wav"] == "x.flac.wav"
    assert names["x.flac"] == "x.flac.flac.wav"


def test_names_stay_when_files_are_added_later() -> None:
    first = assign_names(["a/x.flac"], {}, "wav")
    assert first == {"a/x.flac": "a/x.wav"}
    second = assign_names(["a/x.flac", "a/x.wav", "a/x.mp3"], first, "wav")
    assert second == {"a/x.wav": "a/x.wav.wav", "a/x.mp3": "a/x.mp3.wav"}


def test_names_stay_when_files_have_gone() -> None:
    given = {"a/x.flac": "a/x.wav"}
    assert assign_names(["a/x.mp3"], given, "wav") == {"a/x.mp3": "a/x.mp3.wav"}


def test_a_folder_may_look_like_a_file() -> None:
    names = assign_names(["x.wav/y.wav", "x.flac"], {}, "wav")
    assert names == {"x.wav/y.wav": "x.wav/y.wav", "x.flac": "x.flac.wav"}


def test_no_two_inputs_ever_share_a_name_and_order_is_no_matter() -> None:
    stems = ["x", "x.wav", "x.flac", "x.wav.flac", "x.flac.wav"]
    inputs = [f"{stem}.{ext}" for stem, ext in itertools.product(stems, ["wav", "flac", "mp3"])]
    names = assign_names(inputs, {}, "flac")
    assert len(set(names.values())) == len(inputs)
    random.Random(0).shuffle(inputs)
    assert assign_names(inputs, {}, "flac") == names


def test_compressed_shards_lose_all_of_their_extension() -> None:
    names = assign_names(["a/x.tar.gz", "a/x.tar", "b.tgz"], {}, "tar")
    assert names == {"a/x.tar": "a/x.tar", "a/x.tar.gz": "a/x.tar.gz.tar", "b.tgz": "b.tar"}


def test_inputs_without_extension_get_names_too() -> None:
    assert assign_names(["x", "x.wav"], {}, "wav") == {"x.wav": "x.wav", "x": "x_.wav"}


@given(st.sets(st.text("abc", min_size=1)), st.sets(st.text("abc", min_size=1)), st.integers(1, 5))
def test_groups_are_full_once_and_for_ever(first: set[str], second: set[str], size: int) -> None:
    assign = Groups(Directory(Path()), size).assign
    given_first = assign(first, {}, "tar")
    both = {**given_first, **assign(first | second, given_first, "tar")}
    assert both.keys() == first | second
    for items, groups in ((first, given_first), (second - first, both)):
        counts = Counter(groups[item] for item in items).values()
        assert all(count <= size for count in counts)
        assert len(counts) == -(-len(items) // size)
    assert not set(given_first.values()) & {both[item] for item in second - first}
