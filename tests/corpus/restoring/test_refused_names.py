"""Outputs whose names their file system refuses: each is one failed row, the rest is done."""

import builtins
import errno
import io
import os
import sys
from pathlib import Path

import pytest

from open_miipher.base.rows import read_rows
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.recordings import Directory
from open_miipher.corpus.run import run
from open_miipher.corpus.tars import Groups

sys.path.insert(0, str(Path(__file__).parent))
from packed import files, listed, pack, speech


@pytest.fixture
def refuse(out: Path, monkeypatch: pytest.MonkeyPatch):
    """`refuse(":", errno.EINVAL)`: no name in OUT may have these letters."""

    def refuse(letters: str, number: int) -> None:
        def checked(make):
            def made(path, *arguments, **more):
                inside = str(path).startswith(str(out)) and letters in str(path)[len(str(out)) :]
                if inside and not (make is opened and arguments[:1] in ((), ("r",), ("rb",))):
                    raise OSError(number, os.strerror(number), str(path))
                return make(path, *arguments, **more)

            return made

        opened = builtins.open
        monkeypatch.setattr(os, "mkdir", checked(os.mkdir))
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", checked(opened))

    return refuse


@pytest.mark.parametrize("name", ["a:b.wav", "a:b/c.wav"])
@pytest.mark.parametrize("level", ["match-input", "peak"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ])
def test_files(source, out, write_audio, make_task, alone, refuse, name, level, number) -> None:
    for each in ("0.wav", name, "z.wav"):
        write_audio(source / each)
    refuse(":", number)
    for num_done in (2, 0):
        summary = run(make_task(level=level), out, alone)
        assert (summary.num_done, summary.num_failed) == (num_done, 1)
    assert files(out) == ["0.wav", "manifest.jsonl", "z.wav"]
    (row,) = (row for row in listed(out) if row["error"] is not None)
    assert row["input"] == name
    reason = f"{os.strerror(number)}; rename the input, or choose another output directory"
    assert row["error"] == f"{out / name} cannot be written: {reason}"


def test_shards(source, out, make, alone, refuse) -> None:
    for name in ("0.tar", "a:b.tar", "z.tar"):
        pack(source / name, [speech(0), speech(1)])
    refuse(":", errno.EINVAL)
    for num_done in (2, 0):
        summary = run(make(), out, alone)
        assert (summary.num_done, summary.num_failed) == (num_done, 1)
    assert files(out) == ["0.tar", "manifest.jsonl", "z.tar"]
    (row,) = (row for row in listed(out) if row["error"] is not None)
    assert "a:b.tar cannot be written: Invalid argument; rename the input" in row["error"]


def test_groups_have_names_of_their_own(source, out, write_audio, make_task, alone, refuse) -> None:
    write_audio(source / "a:b.wav")
    refuse(":", errno.EINVAL)
    summary = run(make_task(shards=Groups(Directory(source), 10)), out, alone)
    assert (summary.num_done, summary.num_failed) == (1, 0)


@pytest.mark.parametrize("kind", ["file", "shard"])
def test_a_path_that_is_too_long_with_the_output_directory_before_it(
    tmp_path, source, write_audio, make_task, make, alone, monkeypatch, kind
) -> None:
    """No stand-in: the kernel takes 4095 bytes, and libsndfile 1023."""
    monkeypatch.chdir(source)
    deep = "/".join(["d" * 200] * (19 if kind == "shard" else 4))
    os.makedirs(deep)
    name = "x.wav" if kind == "file" else "x.tar"
    if kind == "file":
        write_audio(Path(deep, "x.wav"))
        write_audio(Path("y.wav"))
    else:
        pack(Path(deep, "x.tar"), [speech(0)])
        pack(Path("y.tar"), [speech(1)])
    out = tmp_path / ("o" * 200) / ("o" * 100)
    here = Path()
    task = (
        make_task(input_dir=here, output_dir=out) if kind == "file" else make(here, output_dir=out)
    )
    for num_done in (1, 0):
        summary = run(task, out, alone)
        assert (summary.num_done, summary.num_failed) == (num_done, 1)
    (row,) = (row for row in read_rows(out / "manifest.jsonl") if row["error"] is not None)
    assert "cannot be written: File name too long; rename the input" in row["error"]
    assert row["input"] == f"{deep}/{name}"


def test_something_that_stands_in_an_output_s_place(
    source, out, write_audio, make_task, alone
) -> None:
    for name in ("a/x.wav", "b.wav", "c.wav"):
        write_audio(source / name)
    (out / "b.wav").mkdir(parents=True)
    (out / "a").write_text("mine")
    summary = run(make_task(), out, alone)
    assert (summary.num_done, summary.num_failed) == (1, 2)
    errors = [row["error"] for row in listed(out)]
    assert "Not a directory" in errors[0] or "File exists" in errors[0]
    assert "Is a directory; rename the input" in errors[1]
    assert errors[2] is None
    assert Ledger(out).rows()["a/x.wav"]["output"] is None
