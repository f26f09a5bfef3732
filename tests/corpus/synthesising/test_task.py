"""Texts become sounds and tokens, every index once, whatever fails, hangs or dies."""

import json
import logging
from collections import Counter

import numpy as np
import pytest
import soundfile
from stand_in import records

from open_miipher.base.errors import UserError
from open_miipher.base.rows import RowWriter
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.status import survey
from open_miipher.index import read_index, verify_index
from open_miipher.shards import read_samples

pytestmark = pytest.mark.dist
TEXTS = [f"text number {'x' * (1 + number % 7)} {number}" for number in range(30)]


def test_every_text_has_sound_tokens_and_a_row_and_all_is_a_training_set(
    synthesise, write_texts, out
):
    summary = synthesise(write_texts(*TEXTS), "processing.save_batch_size=7")
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (30, 0, 0)
    rows = {row["index"]: row for row in records(out / "audio_tokens.csv")}
    assert sorted(rows, key=int) == [str(number) for number in range(30)]
    parts = [row["index"] for part in out.glob("audio_tokens_*.csv") for row in records(part)]
    assert Counter(parts) == Counter(list(rows))
    for number, text in enumerate(TEXTS):
        row = rows[str(number)]
        sound, rate = soundfile.read(out / row["audio"])
        assert (row["text"], row["backend"], row["model"]) == (text, "transformers", "stand-in")
        assert (rate, row["sample_rate"], row["attempts"]) == (24000, "24000", "1")
        assert float(row["seconds"]) == pytest.approx(len(sound) / 24000, abs=1e-5)
        assert np.abs(sound).max() == pytest.approx(0.2, abs=0.05)
        tokens = list(map(int, row["tokens"].split()))
        assert len(tokens) == 2 * -(-len(sound) // 320)
        assert tokens[:6] == [0, 0, 1, 2, 2, 4]
    index = read_index(out)
    verify_index(index)
    assert {entry.extra["text"] for entry in index} == set(TEXTS)
    assert records(out / "failed.csv") == []
    assert json.loads((out / "failed_indices_all.json").read_text()) == []


def test_bad_texts_are_retried_with_other_seeds_and_listed_with_their_reasons(
    synthesise, write_texts, out, tmp_path
):
    bad = ["raises a", "silent b", "short c to be cut", "hangs d", "dies e", "", "?!", "y" * 201]
    once = ["raises-once f", "silent-once g", "hangs-once h", "dies-once i"]
    path = write_texts(*TEXTS[:10], *bad, *once)
    given = ["processing.max_retries=2", "processing.time_limit=1", "dataset.max_characters=200"]
    summary = synthesise(path, *given, "processing.max_failures=7")
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (14, 8, 3)
    failed = {row["text"]: row for row in records(out / "failed.csv")}
    reasons = {text: row["reason"] for text, row in failed.items()}
    assert reasons == {
        "raises a": "KeyError: 'no such phoneme'",
        "silent b": "the speech is silent",
        "short c to be cut": reasons["short c to be cut"],
        "hangs d": "its worker process ended (it took more than 1 s)",
        "dies e": "its worker process ended (signal 9; is memory short?)",
        "": "the text is empty",
        "?!": "the text '?!' is mute",
        "y" * 201: "the text has 201 characters, more than dataset.max_characters=200",
    }
    assert "1.63 s were expected" in reasons["short c to be cut"]
    attempts = {text: int(row["attempts"]) for text, row in failed.items()}
    assert [attempts[text] for text in bad] == [3, 3, 3, 3, 3, 0, 0, 0]
    rows = {row["text"]: row for row in records(out / "audio_tokens.csv")}
    assert set(rows) == {*TEXTS[:10], *once}
    assert len({row["seed"] for row in rows.values()}) == len(rows)
    assert json.loads((out / "failed_indices_all.json").read_text()) == sorted(
        (int(row["index"]) for row in failed.values()), key=str
    )
    assert sum(failure.count for failure in survey(Ledger(out)).failures) == 8
    again = synthesise(path, *given, "processing.max_failures=8")
    assert (again.num_done, again.num_done_before, again.num_failed_before) == (0, 14, 8)
    assert again.exit_code == 0


def test_half_a_character_is_a_failure_that_every_later_run_can_list(synthesise, out, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one text"}\n{"text": "cut off \\ud83d"}\n')
    for _ in range(2):
        synthesise(path, "processing.do_test=true", workers=1)
        (failed,) = records(out / "failed.csv")
        assert failed["text"] == r"cut off \ud83d"
        assert "holds half a character" in failed["reason"]
    assert [row["text"] for row in records(out / "audio_tokens.csv")] == ["one text"]


def test_batches_hold_texts_of_like_lengths_and_the_longest_come_first(
    synthesise, write_texts, tmp_path
):
    texts = [f"text {'word ' * (number * 7 % 23)}" for number in range(24)]
    synthesise(write_texts(*texts), workers=1)
    lines = [line.split()[1:] for line in (tmp_path / "log").read_text().splitlines()]
    lengths = [list(map(int, line)) for line in lines]
    assert max(map(len, lengths)) == 4
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)
    assert len(flat) == 24


def test_indices_that_are_left_are_read_as_indices_and_rewritten(
    synthesise, write_texts, out, tmp_path
):
    path = write_texts(*TEXTS[:8], "silent", *TEXTS[8:12])
    left = tmp_path / "left.json"
    left.write_text("[8, 11, 3]")
    given = ["processing.max_retries=0", f"dataset.remaining_indices_file={left}"]
    summary = synthesise(path, *given)
    assert (summary.num_done, summary.num_failed) == (2, 1)
    assert [r["index"] for r in records(out / "audio_tokens.csv")] == ["11", "3"]
    assert json.loads(left.read_text()) == [8]
    assert synthesise(path, "processing.max_retries=0").num_done == 10
    left.write_text("[8, 3]")  # what failed before is tried again, since it is asked for
    summary = synthesise(path, *given)
    assert (summary.num_done, summary.num_done_before, summary.num_failed) == (0, 12, 1)
    assert json.loads(left.read_text()) == [8]
    assert len(records(out / "audio_tokens.csv")) == 12
    seen = survey(Ledger(out))
    assert (seen.num_inputs, seen.num_done, seen.num_failed, seen.num_left) == (13, 12, 1, 0)


def test_indices_of_another_set_or_of_none_are_refused(synthesise, write_texts, tmp_path):
    left = tmp_path / "left.txt"
    left.write_text("1\n2\n")
    given = [f"dataset.remaining_indices_file={left}"]
    assert synthesise(write_texts(*TEXTS[:4]), *given).num_done == 2
    assert left.read_text() == ""
    left.write_text("3\n")
    with pytest.raises(UserError, match="holds indices of another set"):
        synthesise(write_texts(*TEXTS[:3], "another text"), *given)
    left.write_text("17\n")
    with pytest.raises(UserError, match=r"1 indices that .* does not have, such as '17'"):
        synthesise(write_texts(*TEXTS[:4]), *given)
    left.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        synthesise(write_texts(*TEXTS[:4]), *given)


def test_a_text_that_changed_is_spoken_again_and_stands_there_once(synthesise, write_texts, out):
    synthesise(write_texts(*TEXTS[:5]))
    first = {row["index"]: row for row in records(out / "audio_tokens.csv")}
    summary = synthesise(write_texts(*TEXTS[:4], "something else"))
    assert (summary.num_done, summary.num_done_before) == (1, 4)
    rows = {row["index"]: row for row in records(out / "audio_tokens.csv")}
    assert len(records(out / "audio_tokens.csv")) == len(rows) == 5
    assert rows["4"]["text"] == "something else"
    assert {i: row for i, row in rows.items() if i != "4"} == {
        i: row for i, row in first.items() if i != "4"
    }
    (out / rows["2"]["audio"]).unlink()
    assert synthesise(write_texts(*TEXTS[:4], "something else")).num_done == 1
    assert len(records(out / "audio_tokens.csv")) == 5


def test_a_test_speaks_eight_texts_a_worker_and_prints_a_table(
    synthesise, write_texts, out, capsys, caplog
):
    path = write_texts(*TEXTS)
    summary = synthesise(path, "processing.do_test=true", workers=2)
    assert summary.num_done == 16
    table = capsys.readouterr().out
    assert "index         seconds attempts  text" in table
    assert table.count("text number") == 16
    summary = synthesise(path)  # the rest
    assert (summary.num_done, summary.num_done_before) == (14, 16)


def test_overwriting_some_texts_does_not_throw_the_others_away(
    synthesise, write_texts, out, tmp_path
):
    path, left = write_texts(*TEXTS[:12]), tmp_path / "left.json"
    left.write_text("[3]")
    test, again = "processing.do_test=true", "processing.overwrite=true"
    for _ in range(2):  # a test may be made again, with another voice
        assert synthesise(path, test, again, "processing.seed=7", workers=1).num_done == 8
    assert synthesise(path, "processing.seed=7").num_done == 4
    before = records(out / "audio_tokens.csv")
    with pytest.raises(UserError, match=r"away 11 texts of .* that dataset.remaining_indices_file"):
        synthesise(path, again, f"dataset.remaining_indices_file={left}")
    with pytest.raises(UserError, match=r"away 4 texts of .* that processing.do_test=true"):
        synthesise(path, again, test, workers=1)
    assert synthesise(path, "processing.seed=7").num_done_before == 12
    assert records(out / "audio_tokens.csv") == before


def test_shards_hold_sound_and_text_under_the_index(synthesise, write_texts, out):
    synthesise(write_texts(*TEXTS[:9]), "output.keep_audio=shards", "processing.save_batch_size=4")
    found = {}
    for shard in (out / "audio").glob("*.tar"):
        with shard.open("rb") as file:
            for sample in read_samples(file, str(shard)):
                found[sample.key] = sample.members
    assert sorted(found) == [f"{number:08d}" for number in range(9)]
    for row in records(out / "audio_tokens.csv"):
        shard, _, member = row["audio"].partition("#")
        assert (out / shard).exists()
        members = found[member.removesuffix(".flac")]
        assert members["txt"].decode() == row["text"]
        assert members["flac"][:4] == b"fLaC"
    assert not (out / "metadata.csv").exists()


def members(out) -> dict[str, str]:
    """Return the texts of all shards, by shard and key."""
    found = {}
    for shard in (out / "audio").glob("*.tar"):
        with shard.open("rb") as file:
            for sample in read_samples(file, str(shard)):
                found[f"audio/{shard.name}#{sample.key}.flac"] = sample.members["txt"].decode()
    return found


def test_indices_that_differ_by_a_dot_have_keys_of_their_own_in_a_shard(synthesise, out, tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text,n\nfirst one,a.b\nsecond one,a_b\nthird one,a-b\n")
    synthesise(path, "output.keep_audio=shards", "dataset.index_column=n")
    told = {row["audio"]: row["text"] for row in records(out / "audio_tokens.csv")}
    assert len(told) == 3
    assert members(out) == told


def test_shards_that_nothing_counts_of_are_removed_and_what_others_put_there_stays(
    synthesise, write_texts, out
):
    path, given = write_texts(*TEXTS[:6]), ["output.keep_audio=shards", "processing.overwrite=true"]
    synthesise(path, *given, "processing.save_batch_size=3")
    other = out / "audio/mine.tar"
    other.touch()
    synthesise(path, *given, "processing.save_batch_size=6")
    other.unlink()
    assert sorted(members(out)) == sorted(row["audio"] for row in records(out / "audio_tokens.csv"))
    synthesise(write_texts(*(f"{text} now" for text in TEXTS[:6])), given[0])
    assert set(members(out).values()) == {f"{text} now" for text in TEXTS[:6]}


def test_only_what_a_run_wrote_is_cleared_away(synthesise, write_texts, out):
    path = write_texts(*TEXTS[:4], "silent")
    given = ["processing.max_retries=0", "dataset.remaining_indices_file="]
    synthesise(path, given[0])
    left = out / "failed_indices_all.json"
    kept = [out / "audio_tokens_backup.csv", out / "failed_indices_mine.json"]
    for file in kept:
        file.touch()
    for _ in range(2):  # the second time there is failed_indices_all.json.dataset.json
        synthesise(path, given[0], f"{given[1]}{left}")
    assert all(file.exists() for file in kept)
    assert (out / "failed_indices_all.json.dataset.json").exists()
    assert len(list(out.glob("failed_indices_*.json"))) == 3
    assert json.loads(left.read_text()) == [4]


def test_tables_may_be_parquet_and_sound_may_be_left_out(synthesise, write_texts, out):
    parquet = pytest.importorskip("pyarrow.parquet")
    synthesise(
        write_texts(*TEXTS[:9], "silent"),
        *("output.format=parquet", "output.keep_audio=none", "processing.save_batch_size=4"),
        "processing.max_retries=1",
    )
    rows = parquet.read_table(out / "audio_tokens.parquet").to_pylist()
    assert sorted(row["index"] for row in rows) == [str(number) for number in range(9)]
    assert rows[0]["tokens"][:6] == [0, 0, 1, 2, 2, 4]
    assert rows[0]["audio"] is None
    assert not (out / "audio").exists()
    parts = [parquet.read_table(path) for path in out.glob("audio_tokens_*.parquet")]
    assert sum(map(len, parts)) == 9
    assert [row["index"] for row in records(out / "failed.csv")] == ["9"]


def test_overwritten_in_another_format_no_table_is_left_of_the_old_one(
    synthesise, write_texts, out
):
    pytest.importorskip("pyarrow")
    path = write_texts(*TEXTS[:3])
    synthesise(path)
    synthesise(path, "output.format=parquet", "processing.overwrite=true")
    assert sorted(file.suffix for file in out.glob("audio_tokens*")) == [".parquet", ".parquet"]


def test_tasks_of_an_array_share_the_texts_and_the_last_one_combines(synthesise, write_texts, out):
    path = write_texts(*TEXTS)
    for task in range(3):
        synthesise(path, "processing.num_shards=3", f"processing.shard_id={task}")
    rows = records(out / "audio_tokens.csv")
    assert sorted(row["index"] for row in rows) == sorted(map(str, range(30)))


def test_a_table_that_a_kill_left_without_rows_is_removed(synthesise, write_texts, out):
    path = write_texts(*TEXTS[:6])
    synthesise(path)
    (out / "audio_tokens_0123456789ab.csv").write_text("index,text\n3,cut in the")
    synthesise(path)
    assert len(list(out.glob("audio_tokens_*.csv"))) == 1
    assert len(records(out / "audio_tokens.csv")) == 6


def test_other_settings_are_refused_and_overwriting_makes_all_again(synthesise, write_texts, out):
    path = write_texts(*TEXTS[:6])
    synthesise(path)
    with pytest.raises(UserError, match=r"seed was 0 and is 1.*processing.overwrite=true"):
        synthesise(path, "processing.seed=1")
    before = {row["seed"] for row in records(out / "audio_tokens.csv")}
    assert synthesise(path, "processing.seed=1", "processing.overwrite=true").num_done == 6
    rows = records(out / "audio_tokens.csv")
    assert len(rows) == 6
    assert not before & {row["seed"] for row in rows}


def test_a_full_disk_ends_the_run_in_a_sentence(synthesise, write_texts, out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("open_miipher.corpus.synthesising.outputs._write_csv", full)
    with pytest.raises(UserError, match=r"csv cannot be written: No space left.*goes on"):
        synthesise(write_texts(*TEXTS[:6]))
    monkeypatch.undo()


def test_every_attempt_that_failed_is_logged(synthesise, write_texts, caplog):
    logging.getLogger("open_miipher.synthesis").propagate = True
    with caplog.at_level(logging.DEBUG, "open_miipher.synthesis"):
        synthesise(write_texts("one text", "silent"), "processing.max_retries=1")
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"1, attempt {number}: the speech is silent" for number in (1, 2)]


def test_a_kill_between_rows_and_table_leaves_no_index_twice(
    synthesise, write_texts, out, monkeypatch
):
    path, write = write_texts(*TEXTS[:12]), RowWriter.write
    num_written = 0

    def die_in_between(writer, rows):
        nonlocal num_written
        write(writer, rows)
        num_written += "rank-" in writer._file.name
        if num_written == 6:  # of the 12 of the only table
            raise KeyboardInterrupt

    monkeypatch.setattr(RowWriter, "write", die_in_between)
    with pytest.raises(KeyboardInterrupt):
        synthesise(path, "output.keep_audio=shards")
    monkeypatch.setattr(RowWriter, "write", write)
    assert not list(out.glob("audio_tokens_*.csv"))
    assert synthesise(path, "output.keep_audio=shards").num_done == 12
    parts = [row["index"] for part in out.glob("audio_tokens_*.csv") for row in records(part)]
    assert sorted(parts) == sorted(map(str, range(12)))
    assert len(list((out / "audio").glob("*.tar"))) == 1
