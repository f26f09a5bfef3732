"""The tasks of a job array: every file once, whoever is killed, whatever their number."""

import itertools
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.corpus.array import ArrayTask, place
from open_miipher.corpus.restoring import Restore
from open_miipher.corpus.run import run
from open_miipher.distributed import REQUEUE

FORK = multiprocessing.get_context("fork")  # a fresh interpreter imports for seconds
NUM_FILES = 23


@pytest.fixture
def source(tmp_path: Path, write_audio) -> Path:
    for number in range(NUM_FILES):
        write_audio(tmp_path / f"in/{number % 3}/{number}.wav", 0.05 + 0.01 * number)
    return tmp_path / "in"


@pytest.fixture
def start(out: Path, make_task, alone) -> Iterator[Callable]:
    """Start a task in a process of its own; `seconds` are slept for every chunk."""
    started = []

    def start(
        shard: ArrayTask | None, seconds: float = 0.0, overwrite: bool = False, **options
    ) -> multiprocessing.Process:
        def work() -> None:
            task = make_task(**options)
            restore = task._setting.restorer.model.restore

            def slowly(*arguments):
                time.sleep(seconds)
                return restore(*arguments)

            task._setting.restorer.model.restore = slowly
            os._exit(run(task, out, alone, overwrite, shard).exit_code)

        process = FORK.Process(target=work)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def shards(count: int) -> list[ArrayTask]:
    return [ArrayTask(count, index) for index in range(count)]


def rows(out: Path) -> list[dict]:
    files = sorted((out / ".ledger").rglob("rank-*.jsonl"))
    lines = [line for file in files for line in file.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]


def outputs(out: Path) -> list[str]:
    found = (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return sorted(f for f in found if not f.startswith(".ledger/") and f != "manifest.jsonl")


def check_complete(source: Path, out: Path, most_redone: int = 0) -> None:
    """Every input has one output, a row, a line in the manifest; few were made twice."""
    inputs = sorted(p.relative_to(source).as_posix() for p in source.rglob("*.wav"))
    assert outputs(out) == inputs
    times = Counter(row["id"] for row in rows(out))
    assert sorted(times) == inputs
    assert sum(times.values()) - len(inputs) <= most_redone
    manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["input"] for row in manifest] == inputs
    assert {row["error"] for row in manifest} == {None}
    for name in inputs:
        assert soundfile.info(out / name).frames == soundfile.info(source / name).frames


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_item_belongs_to_one_shard_for_ever() -> None:
    items = [f"{number % 7}/{number}.wav" for number in range(500)] + ["ё.wav", "\udcff.wav"]
    for count in (1, 2, 3, 4, 7, 64, 1000):
        shares = [shard.own(items) for shard in shards(count)]
        assert sorted(itertools.chain(*shares)) == sorted(items)
    assert [place("a/x.wav", count) for count in (1, 4, 7, 1000)] == [0, 0, 1, 988]
    sizes = [len(shard.own(items)) for shard in shards(4)]
    assert min(sizes) > 90


def test_shards_that_can_have_no_item_in_common_are_told_apart() -> None:
    items = [str(number) for number in range(3000)]
    for mine in shards(4):
        for other in shards(6):
            common = set(mine.own(items)) & set(other.own(items))
            assert mine.may_share_with(other) == bool(common)


@pytest.mark.parametrize(("count", "index"), [(0, 0), (4, 4), (4, -1), (-2, 0)])
def test_a_shard_that_does_not_exist_is_one_sentence(count: int, index: int) -> None:
    with pytest.raises(UserError, match="--shard-id one of 0"):
        ArrayTask(count, index)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_shards_one_after_another_cover_every_file_once(
    source, out, make_task, alone, count
) -> None:
    summaries = [run(make_task(), out, alone, array_task=shard) for shard in shards(count)]
    assert sum(summary.num_done for summary in summaries) == NUM_FILES
    check_complete(source, out)


def test_one_run_then_4_shards_then_7_never_redo_and_never_lose(
    source, out, make_task, alone, write_audio
) -> None:
    assert run(make_task(), out, alone).num_done == NUM_FILES
    before = {name: (out / name).stat().st_mtime_ns for name in outputs(out)}
    for number in range(10):
        write_audio(source / f"new/{number}.wav")
    assert sum(run(make_task(), out, alone, array_task=s).num_done for s in shards(4)) == 10
    (out / "0/3.wav").unlink()
    write_audio(source / "more.wav")
    assert sum(run(make_task(), out, alone, array_task=s).num_done for s in shards(7)) == 2
    assert run(make_task(), out, alone).num_done == 0
    changed = [n for n, t in before.items() if (out / n).stat().st_mtime_ns != t]
    assert changed == ["0/3.wav"]
    check_complete(source, out, most_redone=1)


@pytest.mark.dist
def test_tasks_that_start_at_once_cover_every_file_once(source, out, start) -> None:
    tasks = [start(shard, 0.02) for shard in shards(5)]
    for task in tasks:
        task.join(30)
    assert [task.exitcode for task in tasks] == [0] * 5
    check_complete(source, out)


@pytest.mark.dist
@pytest.mark.parametrize("count", [2, 3, 7])
def test_killed_tasks_are_completed_by_running_them_again(source, out, start, count) -> None:
    tasks = [start(shard, 0.05) for shard in shards(count)]
    victims = tasks[::2]
    wait_for(lambda: len(outputs(out)) >= 4)
    for task in victims:
        task.kill()
    for task in tasks:
        task.join(30)
    with (out / ".ledger" / shards(count)[0].folder / "rank-00000.jsonl").open("ab") as file:
        file.write(b'{"run": 1, "id": "to')  # torn
    tasks = [start(shard) for shard in shards(count)]
    for task in tasks:
        task.join(30)
    assert [task.exitcode for task in tasks] == [0] * count
    check_complete(source, out, most_redone=2 * len(victims))
    assert [name for name in outputs(out) if ".tmp" in name] == []


@pytest.mark.dist
def test_a_killed_array_is_completed_by_another_number_of_shards(source, out, start) -> None:
    tasks = [start(shard, 0.05) for shard in shards(4)]
    wait_for(lambda: len(outputs(out)) >= 3)
    for task in tasks:
        task.kill()
        task.join()
    tasks = [start(shard) for shard in shards(3)]
    for task in tasks:
        task.join(30)
    check_complete(source, out, most_redone=8)


@pytest.mark.dist
def test_names_given_at_the_same_moment_are_never_given_twice(
    tmp_path, out, start, write_audio
) -> None:
    for number in range(12):
        for extension in ("wav", "flac", "ogg", "aiff"):
            write_audio(tmp_path / f"in/{number}.{extension}", 0.02)
    tasks = [start(shard) for shard in shards(6)]
    for task in tasks:
        task.join(30)
    assert [task.exitcode for task in tasks] == [0] * 6
    lines = (out / ".ledger/names.jsonl").read_text().splitlines()
    named = [json.loads(line) for line in lines]
    assert len({row["id"] for row in named}) == len(named) == 48
    assert len({row["output"] for row in named}) == 48
    assert sorted(outputs(out)) == sorted(row["output"] for row in named)


@pytest.mark.dist
def test_whoever_may_not_work_there_now_is_told_who_does(
    source, out, start, make_task, alone
) -> None:
    task = start(ArrayTask(4, 1), 1.0)
    wait_for(lambda: len(outputs(out)) >= 1)
    pid = f'"pid": {task.pid}'
    with pytest.raises(UserError, match=rf"written by shard 1 of 4 .*{pid}.*--num-shards"):
        run(make_task(), out, alone)
    with pytest.raises(UserError, match=rf"written by shard 1 of 4 .*{pid}.*shard 0 of 3"):
        run(make_task(), out, alone, array_task=ArrayTask(3, 0))
    with pytest.raises(UserError, match=rf"another run is writing to .*{pid}"):
        run(make_task(), out, alone, array_task=ArrayTask(4, 1))
    assert run(make_task(), out, alone, array_task=ArrayTask(4, 2)).exit_code == 0
    assert not (out / "manifest.jsonl").exists()  # shard 1 will write it
    task.kill()
    task.join()
    whole = start(None, 0.2)
    wait_for(lambda: f'"pid": {whole.pid}' in (out / ".ledger/.lock").read_text())
    with pytest.raises(UserError, match=rf"another run, without shards, .*\"pid\": {whole.pid}"):
        run(make_task(), out, alone, array_task=ArrayTask(4, 1))


@pytest.mark.dist
def test_the_last_task_writes_the_manifest_over_all(source, out, start) -> None:
    slow, fast = start(ArrayTask(2, 0), 0.4), start(ArrayTask(2, 1))
    fast.join(30)
    assert slow.is_alive()
    assert not (out / "manifest.jsonl").exists()
    slow.join(30)
    check_complete(source, out)


def test_temporary_files_of_another_task_survive(source, out, make_task, alone) -> None:
    own = {f"{n % 3}/{n}.wav": place(f"{n % 3}/{n}.wav", 2) for n in range(NUM_FILES)}
    temporary = {}
    for name in own:
        temporary[name] = out / Path(name).parent / f".{Path(name).name}.12.tmp"
        temporary[name].parent.mkdir(parents=True, exist_ok=True)
        temporary[name].write_bytes(b"in work")
    run(make_task(), out, alone, array_task=ArrayTask(2, 0))
    assert {name for name in own if temporary[name].exists()} == {n for n, k in own.items() if k}


@pytest.mark.dist
def test_a_signal_leaves_a_file_that_asks_for_the_requeue(source, out, start) -> None:
    folder = out / ".ledger" / ArrayTask(1, 0).folder
    task = start(ArrayTask(1, 0), 0.1)
    wait_for(lambda: len(outputs(out)) >= 1)
    os.kill(task.pid, signal.SIGTERM)
    task.join(30)
    assert task.exitcode == 4
    assert (folder / REQUEUE).exists()
    task = start(ArrayTask(1, 0), 0.05)
    wait_for(lambda: not (folder / REQUEUE).exists())
    task.join(30)
    assert task.exitcode == 0
    assert not (folder / REQUEUE).exists()
    whole = start(None, 0.1, format="flac", overwrite=True)
    wait_for(lambda: any(name.endswith(".flac") for name in outputs(out)))
    os.kill(whole.pid, signal.SIGUSR2)
    whole.join(30)
    assert whole.exitcode == 4
    assert (out / ".ledger" / REQUEUE).exists()


def test_a_signal_that_comes_too_late_ends_nothing_early(source, out, make_task, alone) -> None:
    task = make_task()
    process = task.process

    def signalled(items):
        yield from process(items)
        os.kill(os.getpid(), signal.SIGTERM)

    task.process = signalled
    summary = run(task, out, alone)
    assert (summary.stopped, summary.exit_code) == (None, 0)
    assert not (out / ".ledger" / REQUEUE).exists()


def test_overwriting_shard_by_shard_makes_every_file_again_once(
    source, out, make_task, alone
) -> None:
    def overwrite(**options) -> list[int]:
        tasks = [(make_task(**options), shard) for shard in shards(3)]
        return [run(t, out, alone, overwrite=True, array_task=s).num_done for t, s in tasks]

    run(make_task(), out, alone)
    assert sum(overwrite()) == NUM_FILES  # made the same way
    assert sum(overwrite(level="peak")) == NUM_FILES  # made otherwise
    with pytest.raises(UserError, match="made otherwise"):
        run(make_task(), out, alone, array_task=ArrayTask(5, 0))
    assert (
        sum(run(make_task(level="peak"), out, alone, array_task=s).num_done for s in shards(5)) == 0
    )


def test_a_shard_that_did_not_overwrite_yet_has_all_to_do(source, out, make_task, alone) -> None:
    run(make_task(), out, alone)
    run(make_task(level="peak"), out, alone, overwrite=True, array_task=ArrayTask(2, 0))
    left = len(ArrayTask(2, 1).own(outputs(out)))
    assert run(make_task(level="peak"), out, alone, array_task=ArrayTask(2, 1)).num_done == left > 0


def test_a_task_that_is_gone_costs_no_other_one_its_start(
    source, out, make_task: Callable[..., Restore], alone
) -> None:
    for count in (3, 2, 4):
        run(make_task(), out, alone, array_task=ArrayTask(count, 0))
    assert run(make_task(), out, alone).exit_code == 0
    check_complete(source, out)
