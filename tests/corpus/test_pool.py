"""Worker processes: own state, killed at any moment, retried, given up."""

import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.corpus.pool import RETRIES, Pool, Worker, WorkerError
from open_miipher.corpus.run import Item

sys.path.insert(0, str(Path(__file__).parent))
from working import Doing, broken, slowly_built

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("warm_workers")]


def items(*names: str) -> list[Item]:
    return [Item(name, name, 1.0, None, None) for name in names]


def never() -> bool:
    return False


def log(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


@pytest.fixture
def work(tmp_path: Path, pool: Pool) -> Callable[..., dict[str, tuple]]:
    """Do items; return result and problem of each, and count what was cleared up."""

    def work(*names: str, pool: Pool = pool) -> dict[str, tuple]:
        found = {}
        for item, result, problem in pool.map(
            Doing(tmp_path), iter(items(*names)), never, lambda item: cleared.update([item.id])
        ):
            assert item.id not in found
            found[item.id] = result, problem
        return found

    cleared: Counter[str] = Counter()
    work.cleared = cleared
    return work


def test_every_item_is_done_once_and_state_is_built_once_a_worker(work, tmp_path) -> None:
    names = [f"item{number}" for number in range(20)]
    assert work(*names) == {name: (name, None) for name in names}
    noted = log(tmp_path)
    assert Counter(name for name, _ in noted if name != "build") == Counter(names)
    builders = [pid for name, pid in noted if name == "build"]
    assert len(builders) == len(set(builders)) <= 2
    assert os.getpid() not in builders


def test_workers_multiply_matrices_in_one_thread(work, monkeypatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with Pool(1) as new:
        work("a", pool=new)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"  # which they inherit


def test_a_worker_that_dies_costs_its_item_a_try_and_the_others_nothing(work, tmp_path) -> None:
    found = work("a", "once", "b", "c")
    assert found == {name: (name, None) for name in ("a", "once", "b", "c")}
    assert Counter(name for name, _ in log(tmp_path))["once"] == 2
    assert work.cleared == {"once": 1}


def test_an_item_that_kills_its_workers_fails_with_a_reason(work, tmp_path) -> None:
    found = work("a", "die", "b")
    assert (found["a"], found["b"]) == (("a", None), ("b", None))
    result, problem = found["die"]
    assert result is None
    assert problem == "its worker process ended 3 times (signal 9; is memory short?)"
    assert Counter(name for name, _ in log(tmp_path))["die"] == RETRIES + 1 == 3
    assert work.cleared == {"die": 3}


def test_a_worker_that_dies_idle_is_replaced_and_costs_nothing(tmp_path) -> None:
    def slowly() -> Iterator[Item]:
        yield from items("first")
        assert [item.id for item, *_ in done] == ["first"]
        while len(log(tmp_path)) < 2:
            time.sleep(0.01)
        (_, pid) = log(tmp_path)[-1]
        os.kill(pid, signal.SIGKILL)
        yield from items("second", "third")

    done: list[tuple] = []
    with Pool(1) as pool:
        for result in pool.map(Doing(tmp_path), slowly(), never, lambda item: None):
            done.append(result)
    assert [(item.id, problem) for item, _, problem in done] == [
        *(("first", None), ("second", None), ("third", None))
    ]
    assert len({pid for _, pid in log(tmp_path)}) == 2


def test_errors_of_the_work_end_the_map(work, pool) -> None:
    with pytest.raises(UserError, match=r"^the store is gone$"):
        work("a", "refuse")
    with pytest.raises(
        WorkerError, match=r"(?s)Traceback.*working\.py.*ValueError: a fault of ours"
    ):
        work("fault")
    with pytest.raises(WorkerError, match=r"(?s)working\.py.*No space left on device"):
        work("full")
    assert work("b") == {"b": ("b", None)}


def test_workers_that_die_before_they_are_ready_end_the_map() -> None:
    with (
        Pool(1) as pool,
        pytest.raises(UserError, match=r"3 worker processes ended while they started \(exit sta"),
    ):
        list(pool.map(broken, iter(items("a", "b")), never, lambda item: None))


def test_a_worker_whose_pool_ended_meanwhile_says_nothing(capfd) -> None:
    worker = Worker(0)
    worker.start(slowly_built)
    worker.connection.close()
    worker.process.join()
    assert worker.process.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err


def test_an_item_that_takes_too_long_fails_and_the_others_are_done(work) -> None:
    with Pool(2, seconds_per_item=0.5) as pool:
        found = work("a", "wait", "b", pool=pool)
    assert found["a"] == ("a", None)
    assert found["wait"] == (None, "its worker process ended 3 times (it took more than 0.5 s)")


def test_a_signal_gives_up_at_once_what_is_under_way(tmp_path, pool) -> None:
    def stopped() -> bool:
        return any(name.startswith("wait") for name, _ in log(tmp_path))

    began = time.monotonic()
    given = iter(items("wait1", "wait2", "c"))
    assert list(pool.map(Doing(tmp_path), given, stopped, lambda item: None)) == []
    assert time.monotonic() - began < 60
    for name, pid in log(tmp_path):
        if name.startswith("wait"):
            assert not Path(f"/proc/{pid}").exists()


def test_without_items_no_process_is_started() -> None:
    with Pool(2) as pool:
        assert list(pool.map(broken, iter(()), never, lambda item: None)) == []
        assert pool._workers == []


def told(pool: Pool, folder: Path, *names: str) -> list[tuple]:
    """Return what came of the items, in order: id, number and place of a part, and problem."""
    made = pool.map(Doing(folder), iter(items(*names)), never, lambda item: None)
    return [(item.id, part, problem) for item, part, problem in made]


def test_an_item_may_be_told_in_parts(tmp_path, pool) -> None:
    found = told(pool, tmp_path, *(f"parts{number}" for number in range(6)), "a")
    numbers = Counter((name, part[0]) for name, part, _ in found if name != "a")
    assert numbers == Counter((f"parts{n}", part) for n in range(6) for part in range(3))
    assert ("a", "a", None) in found
    assert {part[1] for name, part, _ in found if name != "a"} <= {0, 1}
    assert len({pid for name, pid in log(tmp_path) if name == "build"}) <= 2


def test_a_worker_that_tells_parts_has_its_next_item_ahead_and_its_death_costs_that_nothing(
    tmp_path,
) -> None:
    with Pool(1, retries=0) as pool:
        found = told(pool, tmp_path, "parts-die", "parts-next", "parts-last")
    assert [name for name, _, _ in found] == [
        *["parts-die"] * 3, *["parts-next"] * 3, *["parts-last"] * 3,
    ]  # fmt: skip
    assert [problem for *_, problem in found[:3]][:2] == [None, None]
    assert found[2][2] == "its worker process ended (signal 9; is memory short?)"
    assert {part[1] for _, part, problem in found if problem is None} == {0}


def test_the_time_limit_is_of_a_part(tmp_path) -> None:
    with Pool(1, seconds_per_item=1.7, retries=0) as pool:
        found = told(pool, tmp_path, "parts-slow")  # 2.1 s in all
    assert [problem for *_, problem in found] == [None] * 3


def test_a_script_that_is_no_file_is_told_that_workers_need_one(monkeypatch) -> None:
    """As of `python - < script`."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(UserError, match="<stdin> is no file: write it to one, or do without"):
        Worker(0)


def test_too_many_open_files_are_told_in_a_sentence() -> None:
    warm_up = Worker(0)
    warm_up.end()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for num_more in range(1, 5):
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + num_more, before[1]))
        try:
            with pytest.raises(UserError, match=r"cannot be started \(Too many open files\); use"):
                Worker(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
