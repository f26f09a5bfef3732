"""What is recorded survives kills, other rank counts and later runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from open_miipher.base.atomic import write_lines
from open_miipher.base.errors import UserError
from open_miipher.base.rows import RowWriter, read_rows
from open_miipher.corpus.array import OF_PREPROCESSING, OF_RESTORING, ArrayTask, place
from open_miipher.corpus.inputs import assign_names
from open_miipher.corpus.ledger import Ledger

SOURCE = Path(__file__).parents[2] / "src"
IDENTITY = {"model": "abc", "level": "peak"}


def append(ledger: Ledger, rank: int, *rows: dict) -> None:
    with ledger.writer(rank) as writer:
        writer.write(rows)


def test_the_newest_row_of_an_item_counts_whatever_rank_wrote_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.claim(IDENTITY, overwrite=False)
    append(ledger, 3, {"run": 1, "id": "a", "error": "bad"}, {"run": 1, "id": "b", "error": None})
    append(ledger, 0, {"run": 2, "id": "a", "error": None})
    rows = ledger.rows()
    assert rows["a"] == {"run": 2, "id": "a", "error": None}
    assert rows["b"] == {"run": 1, "id": "b", "error": None}


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    whole = b'{"id": 1}\n{"id": 2}\n'
    path.write_bytes(whole[:-cut])
    before = [row["id"] for row in read_rows(path)]
    assert before == ([1] if cut <= 10 else [])
    with RowWriter(path) as writer:
        writer.write([{"id": 3}])
    assert [row["id"] for row in read_rows(path)] == [*before, 3]


def test_a_damaged_line_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id"\n{"id": 3}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        list(read_rows(path))


def test_runs_are_numbered_and_the_lock_ends_with_its_owner(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from open_miipher.corpus.ledger import Ledger\n"
        "from pathlib import Path\n"
        f"ledger = Ledger(Path({str(tmp_path)!r}))\n"
        f"print(ledger.claim({IDENTITY!r}, False), flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "1\n"
    with pytest.raises(UserError, match="another run is writing"):
        Ledger(tmp_path).claim(IDENTITY, overwrite=False)
    other.kill()
    other.communicate()
    assert Ledger(tmp_path).claim(IDENTITY, overwrite=False) == 2


def test_another_model_or_option_is_refused_by_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.check(IDENTITY)
    ledger.claim(IDENTITY, overwrite=False)
    other = Ledger(tmp_path)
    with pytest.raises(UserError, match=r"level was peak and is none.*--overwrite"):
        other.check({**IDENTITY, "level": "none"})
    other.check(IDENTITY)


def test_overwrite_forgets_what_is_done_and_keeps_the_names(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.claim(IDENTITY, overwrite=False)
    ledger.name_all(["a.flac"], "wav", assign_names)
    append(ledger, 0, {"run": 1, "id": "a.flac", "error": None})
    del ledger  # and its lock
    again = Ledger(tmp_path)
    assert again.claim({"model": "other"}, overwrite=True) == 2
    assert again.rows() == {}
    assert again.names("wav") == {"a.flac": "a.wav"}
    assert again.names("flac") == {}
    again.check({"model": "other"})


def test_names_of_several_formats_stand_beside_each_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.claim(IDENTITY, overwrite=False)
    assert ledger.name_all(["a.flac"], "wav", assign_names) == {"a.flac": "a.wav"}
    assert ledger.name_all(["a.flac"], "flac", assign_names) == {"a.flac": "a.flac"}
    assert ledger.names("wav") == {"a.flac": "a.wav"}
    assert ledger.names("flac") == {"a.flac": "a.flac"}


def test_names_in_any_script_and_without_any_come_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.claim(IDENTITY, overwrite=False)
    names = {
        "日本語/ё.mp3": "日本語/ё.wav",
        "bytes\udcff.mp3": "bytes\udcff.wav",
        "a\nb.mp3": "a\nb.wav",
    }
    assert ledger.name_all(list(names), "wav", assign_names) == names
    assert ledger.names("wav") == names


@pytest.mark.parametrize("content", [b"", b'{"number":', b"[1]", b"\xff\0"])
def test_a_damaged_record_is_told_and_can_be_removed(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path)
    for _ in range(3):
        ledger.claim(IDENTITY)
        ledger.tenancy.close()
    with ledger.writer(0) as writer:
        writer.write([{"run": ledger.number, "id": "a", "error": None}])
    (ledger.root / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged; remove it, and start the same"):
        Ledger(tmp_path).claim(IDENTITY)
    (ledger.root / "run.json").unlink()
    assert Ledger(tmp_path).claim(IDENTITY) == 4  # else its rows would count less than older ones


def test_an_unwritable_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        Ledger(tmp_path / "file").claim(IDENTITY, overwrite=False)


def test_reading_a_ledger_that_is_not_there_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none")
    assert ledger.rows() == {}
    assert ledger.names("wav") == {}
    ledger.check(IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_write_lines_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write_lines(path, ["1", "2"])

    def failing():
        yield json.dumps(3)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_lines(path, failing())
    assert path.read_text() == "1\n2\n"
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite_is_recorded_as_rows_and_comes_before_the_new_identity(
    tmp_path: Path, monkeypatch
) -> None:
    ledger = Ledger(tmp_path)
    ledger.claim(IDENTITY)
    append(ledger, 1, {"run": 1, "id": "a", "seconds": 2.0, "error": None})
    append(ledger, 0, {"run": 1, "id": "b", "seconds": 3.0, "error": "bad"})
    del ledger

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("open_miipher.corpus.ledger.write_lines", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path).claim({"model": "other"}, overwrite=True)
    again = Ledger(tmp_path)
    again.check(IDENTITY)  # and nothing of the other model's is there, nor will be taken for it
    assert again.rows() == {}
    assert again.claim({"model": "other"}, overwrite=True) == 2
    assert again.state() == {"number": 2, "identity": {"model": "other"}}
    rows = list(read_rows(tmp_path / ".ledger/rank-00000.jsonl"))
    forgotten = {(row["id"], row["seconds"]) for row in rows if row.get("forgotten")}
    assert forgotten == {("a", 2.0), ("b", 3.0)}
    append(again, 2, {"run": 2, "id": "a", "error": None})
    assert list(again.rows()) == ["a"]


def test_what_ledgers_of_before_forgot_by_run_stays_forgotten(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    first.claim(IDENTITY)
    items = [f"{number}.wav" for number in range(40)]
    for run in (1, 2, 3):
        append(first, 0, *({"run": run, "id": f"{run}/{item}", "error": None} for item in items))
    state = {**first.state(), "number": 3, "forgotten": {"1": {"0": 2}, "4": {"1": 3}}}
    (first.root / "run.json").write_text(json.dumps(state))
    second = {f"2/{item}" for item in items if place(f"2/{item}", 4) != 1}
    expected = second | {f"3/{item}" for item in items}
    assert set(first.rows()) == expected
    del first
    later = Ledger(tmp_path)
    assert later.claim(IDENTITY) == 4
    assert set(later.rows()) == expected
    append(later, 0, {"run": 4, "id": "1/0.wav", "error": None})
    assert set(later.rows()) == expected | {"1/0.wav"}
    assert 0 < len(second) < 40


@pytest.mark.parametrize(
    ("options", "said", "foreign"),
    [
        (OF_RESTORING, ("--overwrite", "--num-shards and --shard-id"), "preprocess."),
        (
            OF_PREPROCESSING,
            ("preprocess.overwrite=true", "preprocess.num_shards and preprocess.shard_id"),
            "--",
        ),
    ],
)
def test_messages_name_the_options_of_their_own_program(tmp_path, options, said, foreign) -> None:
    task = Ledger(tmp_path, ArrayTask(2, 0), options)
    task.claim(IDENTITY)
    messages = []
    for ledger, identity in (
        (Ledger(tmp_path, ArrayTask(2, 1), options), {"model": "other"}),
        (Ledger(tmp_path, None, options), IDENTITY),
        (Ledger(tmp_path, ArrayTask(3, 1), options), IDENTITY),
    ):
        with pytest.raises(UserError) as refused:
            ledger.claim(identity)
        ledger.tenancy.close()
        messages.append(str(refused.value))
    task.tenancy.close()
    assert said[0] in messages[0]
    assert said[1] in messages[1]
    assert not any(foreign in message for message in messages)
