"""The map over items: shared out, recorded, gone on with."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.base.rows import Row
from open_miipher.corpus.array import OF_RESTORING
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.run import Item, Plan, run


class Count:
    """A task that does nothing to the numbers 0 … num_items - 1, and fails at some."""

    def __init__(self, num_items: int = 5, bad: Iterable[int] = (), stop_at: int = -1) -> None:
        self.num_items, self.bad, self.stop_at = num_items, set(bad), stop_at
        self.identity, self.option_names = {"task": "count"}, OF_RESTORING
        self.worked: list[str] = []
        self.rows: dict[str, Row] = {}
        self.full_at = -1

    def plan(self, ledger: Ledger) -> Plan:
        rows = ledger.rows()
        left = [
            Item(str(k), f"{k}.out", float(k), None, None)
            for k in range(self.num_items)
            if rows.get(str(k), {"error": "new"})["error"] is not None
        ]
        return Plan(left, [], "things", "failed", self.num_items - len(left))

    def process(self, items: Iterator[Item]) -> Iterator[Row]:
        for item in items:
            if int(item.id) == self.full_at:
                raise UserError("the disk is full")
            self.worked.append(item.id)
            if int(item.id) == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield {"id": item.id, "error": "bad" if int(item.id) in self.bad else None}

    def finish(self, rows: Iterable[Row]) -> None:
        self.rows = {row["id"]: row for row in rows}


def test_every_item_is_done_once_and_then_no_more(tmp_path: Path, alone, capsys) -> None:
    task = Count()
    summary = run(task, tmp_path, alone)
    assert sorted(task.worked) == ["0", "1", "2", "3", "4"]
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (5, 0, 0)
    assert sorted(task.rows) == sorted(task.worked)
    again = Count()
    assert run(again, tmp_path, alone).exit_code == 0
    assert again.worked == []
    assert "0 to do, 5 done before" in capsys.readouterr().out


def test_failures_are_recorded_and_tried_again(tmp_path: Path, alone) -> None:
    summary = run(Count(bad=[1, 3]), tmp_path, alone)
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (3, 2, 3)
    task = Count(bad=[3])
    summary = run(task, tmp_path, alone)
    assert sorted(task.worked) == ["1", "3"]
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (1, 1, 3)
    assert [task.rows[k]["error"] for k in "01234"] == [None, None, None, "bad", None]


def test_overwrite_does_everything_again(tmp_path: Path, alone) -> None:
    run(Count(), tmp_path, alone)
    task = Count()
    run(task, tmp_path, alone, overwrite=True)
    assert len(task.worked) == 5


def test_a_signal_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, alone) -> None:
    first = Count(stop_at=2)
    summary = run(first, tmp_path, alone)
    assert (summary.stopped, summary.exit_code) == ("SIGTERM", 4)
    assert first.worked == ["4", "3", "2"]
    second = Count()
    assert run(second, tmp_path, alone).exit_code == 0
    assert second.worked == ["1", "0"]


def test_what_was_done_before_the_disk_was_full_is_kept(tmp_path: Path, alone) -> None:
    first = Count()
    first.full_at = 2
    with pytest.raises(UserError, match="the disk is full; what is done is kept"):
        run(first, tmp_path, alone)
    assert sorted(first.rows) == ["3", "4"]
    second = Count()
    run(second, tmp_path, alone)
    assert second.worked == ["2", "1", "0"]
