"""What is said while a run is at work."""

import re
import time

import numpy as np
import pytest
import soundfile

from open_miipher.corpus import progress
from open_miipher.corpus.progress import Progress
from open_miipher.corpus.run import run


@pytest.fixture
def often(monkeypatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)


def test_a_single_long_item_is_told_of_while_it_is_at_work(often, capsys) -> None:
    with Progress(1, 10800.0, True, under_way=lambda: 3600.0):
        time.sleep(0.3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "0 of 1 files, 1.00 h of 3.00 h, " in captured.err


def test_short_ones_are_told_in_seconds_and_on_the_stream_of_failures(capsys) -> None:
    with Progress(2, 12.0, True, "process 1 of 2") as shown:
        shown.advance(8.5)
        shown.say("failed: x")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "failed: x"
    assert lines[1].startswith("process 1 of 2: 1 of 2 files, 8.5 s of 12.0 s, ")


def test_a_terminal_sees_a_long_item_move(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "_BAR_EVERY", 0.05)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    done = iter(range(0, 100_000, 900))
    with Progress(1, 10800.0, True, under_way=lambda: float(next(done))):
        time.sleep(0.6)
    drawn = capsys.readouterr().err
    assert "0 of 1 files" in drawn
    assert {"| 0.25/3.0", "| 0.5/3.0"} <= set(re.findall(r"\| [0-9.]+/3\.0", drawn)), drawn


def test_nothing_is_said_where_nothing_is_shown(often, capsys) -> None:
    with Progress(1, 12.0, False):
        time.sleep(0.15)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("level", ["match-input", "peak"])
def test_a_restoration_knows_how_far_a_long_file_is(
    source, out, write_audio, make_task, alone, monkeypatch, level
) -> None:
    write_audio(source / "long.wav", seconds=30)
    task, seen = make_task(level=level), []
    process = task.process

    def watched(items):
        restore = task._setting.restorer.model.restore

        def noting(*arguments):
            seen.append(items.under_way())
            return restore(*arguments)

        monkeypatch.setattr(task._setting.restorer.model, "restore", noting)
        return process(items)

    task.process = watched
    assert run(task, out, alone).exit_code == 0
    assert seen == sorted(seen)
    assert 20 < seen[-1] <= 30
    assert any(0 < seconds < 15 for seconds in seen)


def test_clipped_outputs_are_counted(source, out, make_task, alone) -> None:
    for name, peak in (("a.wav", 1.5), ("b.wav", 0.5), ("c.wav", 2.0)):
        waveform = np.array([0.0, peak, -peak, 0.1] * 500)
        soundfile.write(source / name, waveform, 8000, subtype="FLOAT")
    assert run(make_task(), out, alone).num_clipped == 2
    assert run(make_task(), out, alone).num_clipped == 0
    assert run(make_task(subtype="FLOAT"), out, alone, overwrite=True).num_clipped == 0
