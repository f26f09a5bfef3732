"""Processes that do not outlive the one that started them."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux; elsewhere nothing).

    Args:
        parent: its process id, by which is known that it ended before, while this process was
            importing; None: the one that is there now.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended in between, and nobody will send the signal
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_launcher() -> None:
    """Tie a worker of torchrun to torchrun; a process started by hand is left alone.

    A SIGKILL of torchrun does not reach its workers, since each has its own session; without this
    they would go on alone, and go on writing.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    die_with_parent()
    # torchrun may have ended while this worker was importing: its parent is then a reaper (init,
    # systemd, a container's init), which is no Python program.
    command = Path(f"/proc/{os.getppid()}/cmdline")
    if command.exists() and b"python" not in command.read_bytes():
        os.kill(os.getpid(), signal.SIGKILL)


def allow_open_files() -> None:
    """Raise the limit of open files to what the system allows at most (Linux; elsewhere nothing).

    Ranks hold a connection to each other one that they talk to; the usual 1,024 are not enough for
    a thousand of them.
    """
    if sys.platform != "linux":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


STOP_SIGNALS = tuple(  # Windows has no SIGUSR2
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR2") if hasattr(signal, name)
)


@contextlib.contextmanager
def stop_signals_wait() -> Iterator[None]:
    """Hold the signals back within: for the start of helpers, which would die of them.

    A process that is started within holds them back from its first instruction on.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where nobody sends them to a whole group
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_signals_interrupt() -> None:
    """Have the signals end what runs as Ctrl-C does: temporary files are removed on the way."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def ignore_stop_signals() -> None:
    """Leave the signals to the main process: it saves first, then ends its helpers.

    A batch system signals the whole group; loader workers that died at once would make the main
    process fail before it can save.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
