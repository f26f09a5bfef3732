"""Run scripts of the repository in processes that need not import torch and the package again.

They are forked from a server that has imported all of it and done nothing else: a training then
takes one second of work to start instead of six. For tests of what a script does, not of how it is
launched; torchrun, what must end with it, and Python's own way out are tested in fresh processes.
"""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from meeting import meeting_place

ROOT = Path(__file__).resolve().parents[1]
_MODULES = [
    "torch._dynamo",  # which optimisers and DDP import: half of the work
    "open_miipher.config",
    "open_miipher.training",
    "open_miipher.restoration",
    "warm",
]
_PATIENCE_SECONDS = 60.0  # with the ranks that are left when one has failed


def run_script(
    script: str,
    *arguments: object,
    ranks: int = 1,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end.

    Args:
        script: its path in the repository.
        arguments: its own.
        ranks: how many processes, with the environment that torchrun gives them.
        environment: of the processes; this one's if None.
        check: whether a status other than 0 fails the test.

    Returns:
        What all ranks printed, and the largest of their statuses (negative: a signal).
    """
    with Run(script, *arguments, ranks=ranks, environment=environment) as run:
        done = run.end()
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


class Run(AbstractContextManager["Run"]):
    """A script at work, to be looked at, signalled and killed; the arguments are `run_script`'s.

    Attributes:
        pids: of its ranks.
    """

    def __init__(
        self,
        script: str,
        *arguments: object,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._words = [str(ROOT / script), *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for stream in self._streams:
            stream.touch()
        context = warm_context()
        given = dict(os.environ if environment is None else environment)
        given |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._store = None
        if ranks > 1:
            self._store, meeting = meeting_place()
            given |= {**meeting, "WORLD_SIZE": str(ranks)}
        places = [{"RANK": r, "LOCAL_RANK": r} if ranks > 1 else {} for r in map(str, range(ranks))]
        self._processes = [
            context.Process(target=_run, args=(self._words, given | place, *self._streams))
            for place in places
        ]
        for process in self._processes:
            process.start()
        self.pids = [process.pid for process in self._processes]

    @property
    def is_over(self) -> bool:
        """Whether all ranks have ended."""
        return not any(process.is_alive() for process in self._processes)

    def send(self, number: int) -> None:
        """Send a signal to every rank."""
        for pid in self.pids:
            os.kill(pid, number)

    def end(self, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end; see `run_script`.

        Where one rank fails, the others have a minute to notice it.
        """
        problem, deadline = f"{self._words} takes more than {seconds} s", time.monotonic() + seconds
        running = {process.sentinel: process for process in self._processes}
        while running:
            ended = wait(running, max(0.0, deadline - time.monotonic()))
            assert ended, f"{problem}; what was said:\n{self._last_words(running.values())}"
            for process in map(running.pop, ended):
                process.join()
                if process.exitcode != 0 and time.monotonic() + _PATIENCE_SECONDS < deadline:
                    deadline = time.monotonic() + _PATIENCE_SECONDS
                    rank = self._processes.index(process)
                    problem = (
                        f"rank {rank} of {self._words} ended with status {process.exitcode}, and "
                        f"others went on for {_PATIENCE_SECONDS} s"
                    )
        status = max((process.exitcode for process in self._processes), key=abs)
        stdout, stderr = (stream.read_text() for stream in self._streams)
        return subprocess.CompletedProcess(self._words, status, stdout, stderr)

    def _last_words(self, running: Iterable[BaseProcess]) -> str:
        """Return what all ranks printed, and where those that run are."""
        for process in running:
            os.kill(process.pid, signal.SIGABRT)  # see `_run`
            process.join(10)
        return "".join(stream.read_text() for stream in self._streams)

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def warm_context() -> ForkServerContext:
    """Return multiprocessing's context whose processes come from the server.

    It is started if there is none yet, and looks for modules where this process does.
    """
    forkserver.set_forkserver_preload(_MODULES)
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


def _run(words: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, stream in ((1, stdout), (2, stderr)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    faulthandler.enable()  # SIGABRT, which comes where it hangs, leaves the calls of all threads
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
