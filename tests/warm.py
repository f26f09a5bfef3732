"""Run scripts of the repository in processes that need not import torch and the package again.

They are forked from a server that has imported all of it and done nothing else: a training then
takes one second of work to start instead of six. For tests of what a script does, not of how it is
launched; torchrun, and what is to be killed, start afresh.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 300
_MODULES = [
    "torch._dynamo",  # which optimisers and DDP import: half of the work
    "open_miipher.config",
    "open_miipher.training",
    "open_miipher.restoration",
    "warm",
]


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
    words = [str(ROOT / script), *map(str, arguments)]
    context = multiprocessing.get_context("forkserver")
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        for stream in streams:
            stream.touch()
        processes = [
            context.Process(target=_run, args=(words, own, *streams))
            for own in _environments(
                dict(os.environ if environment is None else environment), ranks
            )
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(_SECONDS)
                assert process.exitcode is not None, f"{script} takes more than {_SECONDS} s"
        finally:
            for process in processes:
                process.kill()
        stdout, stderr = (stream.read_text() for stream in streams)
    status = max((process.exitcode for process in processes), key=abs)
    assert not check or status == 0, stdout + stderr
    return subprocess.CompletedProcess(words, status, stdout, stderr)


def _environments(environment: dict[str, str], ranks: int) -> list[dict[str, str]]:
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if ranks == 1:
        return [environment]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    return [
        {**environment, **meeting, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(ranks)}
        for rank in map(str, range(ranks))
    ]


def _start_server() -> None:
    """Start the server if there is none yet; it looks for modules where this process does."""
    forkserver.set_forkserver_preload(_MODULES)
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def _run(words: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, stream in ((1, stdout), (2, stderr)):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
