"""The same inputs reached through another folder: told before anything is made twice."""

import sys
from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.corpus.inputs import renamed
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.run import run
from open_miipher.corpus.tars import Groups

sys.path.insert(0, str(Path(__file__).parent))
from packed import files, pack, speech


@pytest.mark.parametrize(
    ("old_root", "root", "given", "found", "pairs"),
    [
        ("/d/a", "/d", ["0"], ["a/0", "b/0"], [("0", "a/0")]),
        ("/d", "/d/a", ["a/0", "b/0"], ["0", "1"], [("a/0", "0")]),
        ("s3://b/d/a", "s3://b", ["0"], ["d/a/0", "d/ab/0"], [("0", "d/a/0")]),
        ("/d/a", "/d", ["0", "a/0"], ["a/0"], []),  # both ways were taken before
        ("/d/a", "/d/b", ["0"], ["0"], []),
        ("/d/a", "/d/ab", ["0"], ["0"], []),
        ("/d/a", "/", ["0"], ["d/a/0"], [("0", "d/a/0")]),
        ("/d/a", "/d", ["0"], ["b/0"], []),
    ],
)
def test_inputs_that_would_get_another_name(old_root, root, given, found, pairs) -> None:
    assert renamed(old_root, root, given, found) == pairs


@pytest.mark.parametrize("patterns", [("a/*.tar", "*/*.tar"), ("*/*.tar", "a/*.tar")])
def test_shards_by_a_wider_or_narrower_pattern(source, out, make, alone, patterns) -> None:
    for name in ("a/0.tar", "a/1.tar", "b/0.tar"):
        pack(source / name, [speech(0)])
    first, second = (source / pattern for pattern in patterns)
    run(make(first), out, alone)
    made, names = files(out), Ledger(out).names("tar")
    says = r"2 of \d inputs were restored .* before, under other names .*; give the inputs as"
    with pytest.raises(UserError, match=says):
        make(second).preview(overwrite=False)
    with pytest.raises(UserError, match=says):
        run(make(second), out, alone)
    assert (files(out), Ledger(out).names("tar")) == (made, names)
    assert run(make(second), out, alone, overwrite=True).exit_code == 0
    assert run(make(second), out, alone).num_done == 0


@pytest.mark.parametrize("kind", ["files", "groups"])
def test_a_folder_and_the_one_above_it(source, out, write_audio, make_task, alone, kind) -> None:
    for name in ("a/0.wav", "b/0.wav"):
        write_audio(source / name)

    def task(folder: Path):
        inputs = Directory(folder)
        if kind == "groups":
            return make_task(shards=Groups(inputs, 2))
        return make_task(recordings=inputs)

    run(task(source / "a"), out, alone)
    with pytest.raises(UserError, match=r"1 of 2 inputs .*\(0.wav, which would be a/0.wav now\)"):
        run(task(source), out, alone)
    moved = source.parent / "moved"
    source.rename(moved)
    assert run(task(moved / "a"), out, alone).num_done == 0  # moved as a whole
