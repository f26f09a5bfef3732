"""Outputs taken for inputs, and speech that stands in both splits."""

import os
import shutil

import pytest

from open_miipher.base.errors import UserError
from open_miipher.index import Entry, read_index, write_index

from .conftest import RATE, make_directory, make_tar


@pytest.mark.parametrize("given", ["{tmp}/*/w/*/0/*.tar", "{tmp}/{{out,in}}/w/*/0/*.tar", "list"])
def test_outputs_that_were_found_are_not_inputs(given, tmp_path, preprocess):
    folder, _ = preprocess(f"data.train.urls=[{make_tar(tmp_path / 'in/w/raw/0/a.tar')}]")
    made = next(folder.glob("*.tar"))
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'in/w/raw/0/a.tar'}\n{made}\n")
    given = f"{tmp_path}/list.txt" if given == "list" else given.format(tmp=tmp_path)
    with pytest.raises(UserError, match=rf"the input {made} lies in the output .*/out/w; choose"):
        preprocess(f"data.train.urls=['{given}']")
    (tmp_path / "link.tar").symlink_to(made)
    with pytest.raises(UserError, match=r"link\.tar lies in the output"):
        preprocess(f"data.train.urls=['{tmp_path}/*.tar']")


def nested(tmp_path):
    """The test's directory lies in the training's, which lists its files too."""
    train = make_directory(tmp_path / "speech")
    test = make_directory(train / "test", 2, seed=1)
    inner = [Entry(f"test/{e.file_path}", RATE, e.num_frames, 1) for e in read_index(test).entries]
    write_index(train, [*read_index(train).entries, *inner])
    return f"data.train.dir_list=[{train}]", f"data.test.dir_list=[{test}]", "test/0.wav"


def linked(tmp_path):
    """One of the test's files is a link to one of the training's, under another name."""
    train, test = make_directory(tmp_path / "a"), make_directory(tmp_path / "b", 3, seed=1)
    shutil.move(train / "2.wav", tmp_path / "kept.wav")
    (train / "2.wav").symlink_to(tmp_path / "kept.wav")
    (test / "2.wav").unlink()
    (test / "2.wav").symlink_to(tmp_path / "kept.wav")
    return f"data.train.dir_list=[{train}]", f"data.test.dir_list=[{test}]", "2.wav"


def linked_directory(tmp_path):
    train = make_directory(tmp_path / "a")
    (tmp_path / "b").symlink_to(train)
    return f"data.train.dir_list=[{train}]", f"data.test.dir_list=[{tmp_path / 'b'}]", "0.wav"


def linked_tar(tmp_path):
    tar = make_tar(tmp_path / "a.tar")
    os.link(tar, tmp_path / "b.tar")
    return f"data.train.urls=[{tar}]", f"data.test.urls=[{tmp_path / 'b.tar'}]", "a.tar"


@pytest.mark.parametrize("give", [nested, linked, linked_directory, linked_tar])
def test_a_file_in_both_splits_is_named(give, tmp_path, tasks):
    train, test, name = give(tmp_path)
    with pytest.raises(UserError, match=rf"{name} of data\.train and .* are the same file; take"):
        tasks(train, test)


def test_equal_copies_beside_each_other_are_no_matter(tmp_path, tasks):
    """Only who a file is counts; what equals it may be another reading of the same line."""
    train, test = make_directory(tmp_path / "a"), make_directory(tmp_path / "b")
    assert len(tasks(f"data.train.dir_list=[{train}]", f"data.test.dir_list=[{test}]")) == 2
