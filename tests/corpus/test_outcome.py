"""Exit statuses of runs, and what is said at their end."""

import pytest

from open_miipher.base.errors import UserError
from open_miipher.corpus.outcome import MaxFailures, Summary


@pytest.mark.parametrize(
    ("allowed", "num_failed", "num_items", "status"),
    [
        ("0", 0, 10, 0),
        ("0", 1, 10, 3),
        ("2", 2, 10, 0),
        ("2", 3, 10, 3),
        ("1%", 1, 100, 0),
        ("1%", 2, 100, 3),
        ("0.5%", 1, 199, 3),
        ("0.5%", 1, 200, 0),
        ("0.29%", 29, 10000, 0),
        ("100%", 5, 5, 0),
        ("1%", 0, 0, 0),
    ],
)
def test_so_many_may_fail(allowed, num_failed, num_items, status) -> None:
    assert MaxFailures(allowed).status(num_failed, num_items) == status


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "many", "1 %", "1e3", "%", "nan%"])
def test_other_texts_are_refused(text) -> None:
    with pytest.raises(UserError, match=r"--max-failures .*: choose a whole number, or a share"):
        MaxFailures(text)


def summary(num_done=0, num_failed=0, stopped=None, **more) -> Summary:
    return Summary(num_done, num_failed, stopped, "files", "failed", **more)


def test_a_share_is_taken_of_all_that_was_ever_done() -> None:
    before = {"num_done_before": 99, "num_failed_before": 1}
    assert summary(0, 1, **before, allowed=MaxFailures("1%")).exit_code == 0
    assert summary(0, 1, **before, allowed=MaxFailures("0.9%")).exit_code == 3
    assert summary(0, 1, "SIGTERM", allowed=MaxFailures("1%")).exit_code == 4


@pytest.mark.parametrize(
    ("ended", "says"),
    [
        (summary(3, 1), "3 files restored, 1 failed"),
        (summary(3, 0), "3 files restored, 0 failed"),
        (
            summary(1, 2, num_done_before=5, num_failed_before=2),
            "1 file restored, 0 failed; 5 files restored before, 2 failed then and did not change",
        ),
        (summary(num_done_before=5), "nothing to do: 5 files restored before"),
        (
            summary(0, 2, num_failed_before=2),
            "nothing to do: 0 files restored before, 2 failed then and did not change",
        ),
        (summary(0, 0, "SIGTERM"), "0 files restored, 0 failed"),
    ],
)
def test_what_is_said(ended, says) -> None:
    assert ended.sentence("restored") == says
