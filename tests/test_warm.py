"""The tests' own way to run ranks: it loses no port, and tells of a rank that fails."""

import socket

import pytest
import warm
from meeting import meeting_place

FAILS = """
import os
from open_miipher.distributed import start
if os.environ["RANK"] == "0":
    raise RuntimeError("out of luck")
start("cpu")
"""


def test_nobody_else_gets_the_port_where_ranks_meet():
    store, meeting = meeting_place()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((meeting["MASTER_ADDR"], int(meeting["MASTER_PORT"])))
    del store


@pytest.mark.dist
def test_a_rank_that_fails_ends_the_others_in_time_and_shows_what_was_said(tmp_path, monkeypatch):
    """Rank 1 would wait for it for half an hour."""
    monkeypatch.setattr(warm, "_PATIENCE_SECONDS", 1.0)
    script = tmp_path / "script.py"
    script.write_text(FAILS)
    with pytest.raises(AssertionError) as caught:
        warm.run_script(script, ranks=2)
    said = str(caught.value)
    assert "rank 0 of " in said
    assert "ended with status 1, and others went on for 1.0 s" in said
    assert "RuntimeError: out of luck" in said
    assert "Fatal Python error: Aborted" in said
    assert "world.py" in said  # where rank 1 waited
