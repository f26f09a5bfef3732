"""How checks are run: each by itself, for a while at the most, and what it found is kept."""

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

LONGEST = 150.0
"""Seconds that a check may take unasked: a hanging one must not take the time of all."""

LEAST = 10.0
"""Seconds without which none is begun."""

SUMMARY = (
    *("steps_per_second", "audio_x_real_time", "times_real_time", "peak_memory_bytes"),
    *("waits_a_step", "encode_times_real_time", "files", "limited_by"),
    *("device_share", "feeder_share", "workers_share"),
)
"""Figures of a benchmark that are told in a line."""

FAULTS = (
    *(UserError, RuntimeError, ValueError, TypeError, LookupError, OSError),
    *(AssertionError, subprocess.SubprocessError),  # of Triton, which calls a compiler
)

Outcome = tuple[bool, str, dict[str, Any]]
"""Whether a check passed, what it says in a line, and its figures."""


@dataclass
class Result:
    """The result of one check."""

    check: str
    passed: bool
    seconds: float
    summary: str
    figures: dict[str, Any]


class CheckRunner:
    """Runs checks one after the other; a failed one does not stop the rest.

    Args:
        out: folder for gpu.json and the logs.
        device: cuda or cpu.
        tiny: whether it is a rehearsal.
        seconds: after which no check is begun, and the one under way is stopped.
        longest: seconds that one may take.
    """

    def __init__(self, out: Path, device: str, tiny: bool, seconds: float, longest: float) -> None:
        self.out, self.device, self.tiny, self.longest = out, device, tiny, longest
        self.results: list[Result] = []
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that a check may take now."""
        return min(self.longest, self._ends - time.monotonic())

    def check(self, name: str, action: Callable[[], Outcome]) -> None:
        """Run one check; keep, print and write its result."""
        print(f"{name} …", flush=True)
        started = time.monotonic()
        if self.left() < LEAST:
            passed, summary, figures = False, "not tried: the time is over", {}
        else:
            try:
                passed, summary, figures = action()
            except FAULTS as error:
                passed, summary, figures = False, named(error), {}
        seconds = time.monotonic() - started
        self.results.append(Result(name, passed, seconds, summary, figures))
        print(f"  {'passed' if passed else 'FAILED'}, {seconds:.0f} s: {summary}", flush=True)
        self.write()

    def write(self) -> None:
        """Write gpu.json: whatever stops the checks, what they have found so far is there."""
        content = {
            **environment(self.device),
            "tiny": self.tiny,
            "checks": [asdict(result) for result in self.results],
        }
        part = self.out / "gpu.json.part"
        part.write_text(json.dumps(content, indent=2) + "\n")
        part.replace(self.out / "gpu.json")

    def apart(self, action: Callable[..., Any], *arguments: Any) -> Callable[[], Outcome]:
        """Return a check that runs in a process of its own.

        A GPU that failed once answers nothing more there, and a process can be stopped.

        Args:
            action: returns an outcome, or yields several, each with all figures so far.
            arguments: for it.
        """

        def check() -> Outcome:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=tell, args=(theirs, action, *arguments))
            process.start()
            theirs.close()
            passed, said, figures = False, "it said nothing", {}
            ends = time.monotonic() + self.left()
            try:
                while ours.poll(max(0.0, ends - time.monotonic())):
                    passed, said, found = ours.recv()
                    figures = found or figures
                passed, said = False, f"stopped, as it took too long; {said}"
            except EOFError:  # that was all
                process.join(LEAST)
                if process.exitcode:
                    passed, said = False, f"its process ended with {process.exitcode}; {said}"
            finally:
                process.kill()
                process.join()
            return passed, said, figures

        return check

    def benchmark(self, name: str, words: list[str], overrides: list[str]) -> Outcome:
        """Run a benchmark that writes its figures as JSON."""
        path = self.out / f"{name}.json"
        passed, last = self.command(name, [*words, "--json", str(path), *overrides])
        figures = json.loads(path.read_text()) if path.exists() else {}
        path.unlink(missing_ok=True)  # the figures are in gpu.json
        if not passed:
            return False, last, figures
        shown = {name: figures[name] for name in SUMMARY if figures.get(name) is not None}
        said = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
        return True, ", ".join(said), figures

    def command(self, name: str, words: list[str]) -> tuple[bool, str]:
        """Run this Python; return whether it succeeded, and its last line of output."""
        log = self.out / f"{name}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(self.left())
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # and the processes that it has started
                    process.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        last = (lines[-1] if lines else "it said nothing")[:200]
        return status == 0, last if status is not None else f"stopped, as it took too long; {last}"


def tell(there: Connection, action: Callable[..., Any], *arguments: Any) -> None:
    """Send what a check finds, outcome by outcome; it runs in a process of its own."""
    try:
        found = action(*arguments)
        for outcome in found if isinstance(found, Iterator) else [found]:
            there.send(outcome)
    except FAULTS as error:
        there.send((False, named(error), {}))


def named(error: Exception) -> str:
    """Return what an error says, and of what kind it is."""
    return f"{type(error).__name__}: {error}"[:200]


def environment(device: str) -> dict[str, Any]:
    """Describe the machine that the figures come from."""
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
    }
