"""Inputs that became fewer, and outputs that are made anew: what is removed, and what refused."""

import json
import sys

import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.commands import preprocess as command
from open_miipher.corpus.array import ArrayTask
from open_miipher.corpus.run import run
from open_miipher.index import read_index, write_index

from .conftest import SMALL, files_of, make_directory, make_tar, pack_tar


def test_longer_blocks_replace_shorter_ones(tmp_path, preprocess):
    given = f"data.train.dir_list=[{make_directory(tmp_path / 'speech')}]"
    folder, _ = preprocess(given)
    before = files_of(folder)
    with pytest.raises(UserError, match="shard_maxcount was 3 and is 100"):
        preprocess(given, "preprocess.shard_maxcount=100")
    assert files_of(folder) == before
    again = [given, "preprocess.shard_maxcount=100", "preprocess.overwrite=true"]
    _, summary = preprocess(*again)
    assert (summary.num_done, summary.exit_code) == (1, 0)
    expected = files_of(preprocess(*again, "preprocess.job_id=new")[0])
    assert files_of(folder) == expected != before


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_shorter_index_leaves_nothing_of_what_is_gone(tmp_path, preprocess, was_killed):
    root = make_directory(tmp_path / "speech")
    given = f"data.train.dir_list=[{root}]"
    folder, first = preprocess(given)
    last = max(folder.glob("*.tar"))
    if was_killed:  # in the last unit, which has no row then, and half of its second shard
        rows = folder / ".ledger/rank-00000.jsonl"
        rows.write_text("".join(r for r in rows.open() if last.name not in r))
        (folder / f".{last.name.replace('00.tar', '01.tar')}.1.tmp").touch()
    (folder / f".{last.name}.1.tmp").touch()
    write_index(root, read_index(root).entries[:3])
    _, summary = preprocess(given)
    assert summary.exit_code == 0
    assert first.num_done > 1
    assert files_of(folder) == files_of(preprocess(given, "preprocess.job_id=new")[0])
    assert not list(folder.glob(".*.tmp"))
    assert json.loads((folder / "summary.json").read_text())["files"] == 3


def test_what_is_not_given_any_more_goes_only_to_make_everything_again(tmp_path, preprocess):
    first, second = make_tar(tmp_path / "a.tar"), make_directory(tmp_path / "speech")
    third = make_directory(tmp_path / "third", 3)
    both = [f"data.train.urls=[{first}]", f"data.train.dir_list=[{second},{third}]"]
    folder, _ = preprocess(*both)
    whole = files_of(folder)
    own = folder / "speech-00000.tar"  # no name of ours
    own.touch()
    write_index(second, read_index(second).entries[:3])
    for less in (both[1], f"data.train.dir_list=[{second}]"):
        with pytest.raises(UserError, match=r"is not given now; .*overwrite=true"):
            preprocess(less)
    assert files_of(folder) == {**whole, own.name: b""}  # what is refused removes nothing
    preprocess(f"data.train.dir_list=[{third}]", "preprocess.overwrite=true")
    assert own.exists()
    assert {name.partition("-")[0] for name in files_of(folder)} == {"third", "speech"}
    assert len(list(folder.glob("speech-*"))) == 1


def test_the_summary_is_of_what_is_given_now(tmp_path, preprocess):
    bad, good = pack_tar(tmp_path / "bad.tar", []), make_tar(tmp_path / "good.tar")
    folder, summary = preprocess(f"data.train.urls=[{bad},{good}]")
    assert summary.num_failed == 1
    assert preprocess(f"data.train.urls=[{good}]")[1].exit_code == 0
    told = json.loads((folder / "summary.json").read_text())
    assert (told["inputs"], told["files"], told["problems"]) == (1, 7, [])


def test_a_task_of_an_array_that_overwrites_keeps_what_others_made(tmp_path, preprocess):
    given = [f"data.train.dir_list=[{make_directory(tmp_path / 'speech')}]"]
    folder, _ = preprocess(*given)
    again = [*given, "preprocess.shard_maxcount=1", "preprocess.overwrite=true"]
    done = [preprocess(*again, array_task=ArrayTask(2, k))[1].num_done for k in (0, 1)]
    assert all(done)
    assert files_of(folder) == files_of(preprocess(*again, "preprocess.job_id=new")[0])


def test_missing_inputs_are_refused_before_anything_is_forgotten(tmp_path, preprocess, monkeypatch):
    first, second = make_tar(tmp_path / "a.tar"), make_tar(tmp_path / "b.tar", seed=1)
    given = [f"data.train.urls=[{first},{second}]"]
    folder, _ = preprocess(*given)
    state = (folder / ".ledger/run.json").read_text()
    second.unlink()
    words = [*SMALL, f"preprocess.output_root={tmp_path / 'out'}", *given]
    monkeypatch.setattr(sys, "argv", ["preprocess.py", *words, "preprocess.overwrite=true"])
    with pytest.raises(UserError, match=r"b\.tar does not exist"):
        command.main()
    assert (folder / ".ledger/run.json").read_text() == state


@pytest.mark.parametrize("by_link", [False, True])
def test_a_file_that_was_replaced_at_the_same_length_is_made_again(tmp_path, preprocess, by_link):
    root = make_directory(tmp_path / "speech")
    place = root / "1.wav"
    if by_link:
        place = tmp_path / "kept.wav"
        (root / "1.wav").replace(place)
        (root / "1.wav").symlink_to(place)
    folder, _ = preprocess(f"data.train.dir_list=[{root}]", "preprocess.shard_maxcount=1")
    before = files_of(folder)
    waveform, rate = soundfile.read(place)
    soundfile.write(place, waveform[::-1], rate)
    _, summary = preprocess(f"data.train.dir_list=[{root}]", "preprocess.shard_maxcount=1")
    assert summary.num_done == 1
    changed = {name for name, data in files_of(folder).items() if data != before[name]}
    assert 0 < len(changed) < len(before)


def test_a_file_that_is_missing_is_named_and_made_once_it_is_back(
    tmp_path, preprocess, tasks, alone
):
    root = make_directory(tmp_path / "speech", 2)
    given = f"data.train.dir_list=[{root}]"
    folder, task = next(iter(tasks(given).items()))
    (root / "1.wav").rename(tmp_path / "away.wav")
    summary = run(task, folder, alone)
    assert summary.num_failed == 1
    (problem,) = json.loads((folder / "summary.json").read_text())["problems"]
    assert "1 of 2 files are unreadable" in problem
    (tmp_path / "away.wav").rename(root / "1.wav")
    assert preprocess(given)[1].num_done == 1
