"""A run whose ranks die restarts by itself; ranks that cannot go on end in time, with a reason."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from meeting import meeting_place

from open_miipher.checkpoint import Checkpoint

pytestmark = pytest.mark.dist

ROOT = Path(__file__).resolve().parents[2]
STEPS = 10


def settings(tiny_stages, directory: Path, *more: str) -> list[str]:
    given = (
        f"trainer.output_dir={directory}",
        "trainer.ckpt_dir=auto",
        "trainer.log_every=1",
        "trainer.validate_every=4",
    )
    ends = [] if any("max_steps" in o for o in more) else [f"trainer.max_steps={STEPS}"]
    saves = [] if any("save_every" in o for o in more) else ["trainer.save_every=3"]
    return [*tiny_stages["cleaner"], *given, *ends, *saves, *more]


_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    while _STARTED:
        _STARTED.pop().kill()  # after a test that failed


def launch(overrides: list[str], ranks: int, *options: str, script: Path | None = None, **more):
    """Start torchrun with its own options."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    command += ["--nproc_per_node", str(ranks), str(script or ROOT / "src/train.py"), *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    _STARTED.append(subprocess.Popen(command, env=environment(), **pipes, **more))
    return _STARTED[-1]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def alone(overrides: list[str], rank: int, meeting: dict[str, str]) -> subprocess.Popen:
    """Start one of two ranks without a launcher that would end it with the other."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    command = [sys.executable, str(ROOT / "src/train.py"), *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    _STARTED.append(subprocess.Popen(command, env=environment(**place, **meeting), **pipes))
    return _STARTED[-1]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def num_rows(directory: Path) -> int:
    file = directory / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_killed_worker_restarts_from_the_newest_checkpoint(
    tiny_stages, tmp_path, wait_until, end_of, run_script
):
    """SIGKILL of rank 0, which holds the lock and has a loader worker; nobody helps."""
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    process = launch(settings(tiny_stages, broken, "trainer.num_workers=1"), 2, "--max-restarts=3")
    wait_until(lambda: num_rows(broken) >= 5 or process.poll() is not None)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "resumed from" in output
    output = run_script("src/train.py", *settings(tiny_stages, unbroken), ranks=2).stdout
    assert "resumed from" not in output
    assert end_of(broken) == end_of(unbroken)
    assert len(end_of(broken)[0]) == STEPS + STEPS // 4


def test_a_signal_to_one_rank_ends_all_well(tiny_stages, tmp_path, wait_until):
    """As the job scripts send it: past torchrun, which would give its workers 30 s to live."""
    run = tmp_path / "run"
    endless = settings(tiny_stages, run, "trainer.max_steps=100000", "trainer.save_every=100000")
    ignored = lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # noqa: E731 - inherited
    process = launch(endless, 2, preexec_fn=ignored)
    wait_until(lambda: num_rows(run) >= 2)
    for pid in (process.pid, children(process.pid)[1]):
        os.kill(pid, signal.SIGUSR2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert (run / "REQUEUE").exists()
    state = Checkpoint.open(run).state
    assert state["step"] >= 2
    assert f"step {state['step']}: stopped by a signal" in output


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_they_move(
    tiny_stages, tmp_path, run_script
):
    given = [*tiny_stages["cleaner"], f"trainer.output_dir={tmp_path}", "trainer.max_steps=9"]
    said = run_script("tests/dist/bad_step.py", *given, ranks=2).stdout
    lines = [line for line in said.splitlines() if " l1 not finite at step 1; nothing was" in line]
    assert {line[:6] for line in lines} == {"rank 0", "rank 1"}
    assert len({line[6:].lstrip(": ") for line in lines}) == 1
    assert lines[0].count(" epoch ") == 2  # the samples of rank 1


def test_a_checkpoint_that_one_rank_cannot_write_ends_all_with_the_reason(
    tiny_stages, tmp_path, wait_until
):
    """It is written beside training; from a moment on, the system refuses rank 0 larger files."""
    run = tmp_path / "run"
    process = launch(settings(tiny_stages, run, "trainer.max_steps=100000"), 2)
    wait_until(lambda: (run / "ckpt/latest").exists() or process.poll() is not None)
    for pid in children(process.pid):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert output.count(f"error: cannot write the checkpoint {run}/ckpt/step-") == 1
    assert "File too large; the newest complete one is" in output
    step = Checkpoint.open(run).state["step"]
    assert step % 3 == 0 and num_rows(run) <= step + 20
    assert not (run / "REQUEUE").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "minutes"), [(signal.SIGKILL, 10.0), (signal.SIGSTOP, 0.08)])
def test_a_rank_that_is_gone_or_silent_ends_the_others_in_time(
    tiny_stages, tmp_path, wait_until, sent, minutes
):
    """A closed connection is noticed at once, silence after `trainer.timeout_minutes`."""
    run = tmp_path / "run"
    limits = ("trainer.max_steps=100000", f"trainer.timeout_minutes={minutes}")
    endless = settings(tiny_stages, run, *limits)
    _store, meeting = meeting_place()
    ranks = [alone(endless, rank, meeting) for rank in range(2)]
    try:
        wait_until(lambda: num_rows(run) >= 2)
        ranks[1].send_signal(sent)
        output, _ = ranks[0].communicate(timeout=60)
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    assert ranks[0].returncode == 2
    assert "error: rank 0 lost contact with the other ranks" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_number_of_ranks_that_does_not_divide_the_batch_is_one_sentence(tiny_stages, tmp_path):
    process = launch(settings(tiny_stages, tmp_path / "run"), 3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "trainer.batch_size=4 does not divide by 3 ranks" in errors[0]


@pytest.mark.slow
def test_ranks_with_disks_of_their_own_say_what_each_sees(tiny_stages, tmp_path):
    """The same relative path is another folder for each rank, as on disks of the nodes."""
    start = tmp_path / "start.py"
    start.write_text(
        "import os, runpy, sys\n"
        f"os.chdir(os.path.join({str(tmp_path)!r}, os.environ['RANK']))\n"
        f"sys.argv[0] = {str(ROOT / 'src/train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    overrides = settings(tiny_stages, Path("run"))
    process = launch([*overrides, "trainer.max_steps=1"], 2, script=start)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output  # nothing is there yet: rank 0 alone writes
    process = launch(overrides, 2, script=start)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "(step 1, save 1, " in errors[0]
    assert "rank 1 on" in errors[0]
    assert "no checkpoint" in errors[0]
