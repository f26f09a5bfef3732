import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
import torch.distributed as dist

from open_miipher.base.atomic import replacing
from open_miipher.base.errors import UserError
from open_miipher.distributed import StopSignal, World, contact, hold, start, world

SRC = Path(__file__).resolve().parents[2] / "src"


def test_alone_without_a_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    world = start("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.gather("x") == ["x"]
    assert world.mean({"a": 2.0}) == {"a": 2.0}
    assert world.any_later(True)()
    assert not world.any_later(False)()


def test_as_many_files_may_be_open_as_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        start("cpu")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_nccl_starts_only_where_gradients_are_averaged_and_forbids_forks(monkeypatch):
    """Corpus runs and preprocessing talk over the CPU."""
    import torch

    began = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(world, "_device", lambda *_: torch.device("cuda:0"))
    monkeypatch.setattr(world, "_store", lambda *_: None)
    monkeypatch.setattr(world, "_check_shared_gpus", lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: began.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda **_: "gloo beside it")
    monkeypatch.setattr(sys, "version_info", (3, 11, 10))
    assert not start().may_fork
    assert start(collectives=False).may_fork
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))  # whose child waits for a taken lock
    assert not start(collectives=False).may_fork
    assert World(0, 1, torch.device("cpu")).may_fork
    assert began == ["nccl", "gloo", "gloo"]


def test_agree_marks_the_error_as_shared():
    def fail():
        raise UserError("broken")

    with pytest.raises(UserError, match="broken") as caught:
        start("cpu").agree(fail)
    assert caught.value.shared
    assert start("cpu").agree(lambda: 5) == 5


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[gloo/transport/tcp] Connection closed by peer"), "lost contact"),
        (RuntimeError("Application timeout caused pair closure"), "lost contact"),
        (RuntimeError("Connection reset by peer"), "lost contact"),
        (dist.DistNetworkError("timeout"), "lost contact"),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."), "num_workers"),
        (
            MemoryError("Unable to allocate 7 TiB"),
            "machine's memory does not suffice; use a smaller",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
            "machine's memory does not suffice; use a smaller",
        ),
    ],
)
def test_a_process_that_is_gone_is_one_sentence(error, words):
    with pytest.raises(UserError, match=words), contact():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        OSError(errno.ENOSPC, "No space left on device"),  # nobody knows where
        OSError(errno.EBADF, "Bad file descriptor", "/out/train.log"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "/out/ckpt/x"),
        OSError("of no number"),
    ],
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught, contact():
        raise error
    assert caught.value is error
    assert caught.traceback[-1].lineno > 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EDQUOT, "Disk quota exceeded"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EIO, "Input/output error"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_trouble_with_a_file_is_one_sentence_that_names_it(number, words):
    for path in ("/out/a.wav", b"/out/a.wav"):
        with pytest.raises(UserError) as caught, contact():
            raise OSError(number, os.strerror(number), path)
        assert str(caught.value) == f"/out/a.wav: {words}; what was saved is kept"


def test_a_file_that_is_written_under_another_name_is_named_where_the_disk_is_full(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(UserError, match=r"/x\.json: No space left"),
        contact(),
        replacing(tmp_path / "x.json"),
    ):
        full()


def test_the_stop_signal_is_remembered():
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        stop = StopSignal()
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == "SIGTERM"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_lock_dies_with_its_process(tmp_path):
    program = (
        f"import sys, time; sys.path.insert(0, {str(SRC)!r})\n"
        "from pathlib import Path\n"
        "from open_miipher.distributed.lock import hold\n"
        f"lock = hold(Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"another run is writing.*{process.pid}"):
        hold(tmp_path)
    process.kill()
    process.wait()
    with hold(tmp_path) as lock, pytest.raises(BlockingIOError), open(lock.name) as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_disk_too_full_for_the_lock_is_named(tmp_path):
    """A limit on the size of files stands for the full disk: the write fails for real."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}: File too large"):
            hold(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    hold(tmp_path).close()


def test_a_restarted_run_waits_for_the_lock_of_its_predecessor(tmp_path):
    first = hold(tmp_path)
    Timer(0.3, first.close).start()
    with hold(tmp_path, patience_seconds=20.0), pytest.raises(UserError, match="another run"):
        hold(tmp_path, patience_seconds=0.1)


def test_a_child_dies_with_its_parent(tmp_path):
    child = (
        f"import sys, time; sys.path.insert(0, {str(SRC)!r})\n"
        "from open_miipher.distributed.process import die_with_parent\n"
        "die_with_parent(); print('ready', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "takes_apart"), [(0, False), (1, False), (2, True)])
def test_what_went_well_ends_before_the_interpreter_is_taken_apart(code, takes_apart):
    source = (
        f"import atexit, sys; sys.path.insert(0, {str(SRC)!r})\n"
        "from open_miipher.distributed import run_as_rank\n"
        "from open_miipher.base.errors import UserError\n"
        "def main():\n"
        "    atexit.register(print, 'apart', flush=True)\n"
        "    print('done', end='')\n"
        f"    if {code} == 2: raise UserError('wrong')\n"
        f"    return {code}\n"
        "run_as_rank(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.startswith("done")
    assert ("apart" in done.stdout) == takes_apart
    assert ("error: wrong" in done.stderr) == takes_apart


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
