"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (Linux; elsewhere nothing).

    A SIGKILL of torchrun does not reach its workers, since each has its own session; without this
    they would go on alone, and go on writing.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have ended before the request: then nobody will send the signal. Under
    # torchrun an orphan shows as a parent that is no longer the launcher.
    orphaned = parent == 1 and "TORCHELASTIC_RUN_ID" in os.environ
    if orphaned or os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def ignore_stop_signals() -> None:
    """Leave SIGTERM and SIGINT to the main process: it saves first, then ends its helpers.

    A batch system signals the whole group; loader workers that died at once would make the main
    process fail before it can save.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
