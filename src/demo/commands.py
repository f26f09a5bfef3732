"""Run a command as a user would type it: shown, logged, watched, and killed on purpose."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from open_miipher.base.errors import UserError
from open_miipher.base.rows import read_rows

SAY_EVERY_SECONDS = 15.0
LOG_TAIL = 20


class Progress:
    """Reads a training's metrics.jsonl while it grows and says how far it is.

    What the file holds already is no news, nor are its steps that a resumed training does again.

    Args:
        path: the file; it need not exist yet.
        max_steps: the step the training ends at.
    """

    def __init__(self, path: Path, max_steps: int) -> None:
        self.path, self.max_steps = path, max_steps
        self._said_at, self._said = time.monotonic(), self.last().get("step", 0)

    def last(self) -> dict[str, float]:
        """Return the newest complete row of the training, empty if there is none."""
        rows = [row for row in read_rows(self.path) if row["split"] == "train"]
        return rows[-1] if rows else {}

    def say(self) -> None:
        """Print a line if there is news, but not too often."""
        row = self.last()
        news = row.get("step", 0) > self._said
        if news and time.monotonic() - self._said_at > SAY_EVERY_SECONDS:
            self._said_at, self._said = time.monotonic(), row["step"]
            print(f"  step {row['step']} of {self.max_steps}, loss {row['loss']:.3f}", flush=True)


def run(
    command: Sequence[str],
    directory: Path,
    log: Path,
    progress: Progress | None = None,
    kill_at: int | None = None,
    may_fail: bool = False,
) -> None:
    """Run a command to its end, or until a training step at which everything is killed.

    Args:
        command: the words; programs of this Python's environment are found first.
        directory: where it runs.
        log: takes what it says, added at the end.
        progress: of a training, printed now and then.
        kill_at: at this step SIGKILL ends the command and all its processes at once.
        may_fail: a non-zero exit status is no error here.

    Raises:
        UserError: the command failed, or ended before `kill_at`; names the log, shows the reason.
    """
    print(f"\n$ {shlex.join(command)}", flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.monotonic()
    with open(log, "a") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            killed = _watch(process, progress, kill_at)
        finally:
            if process.poll() is None:  # Ctrl-C, or a fault of ours: leave nothing behind
                kill_tree(process)
    if process.returncode != 0 and not killed and not may_fail:
        raise UserError(f"this command failed; from {log}:\n{reason(log)}")
    if kill_at is not None and not killed:
        raise UserError(f"the training ended before step {kill_at}, where it was to be killed")
    print(f"  {time.monotonic() - started:.0f} s, log in {log}", flush=True)


def reason(log: Path) -> str:
    """Return what a log says of a failure: its last `error:` line, else its last lines."""
    text = log.read_text(errors="replace")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if errors:
        return errors[-1]
    said = text.partition("torch/distributed/elastic")[0]  # torchrun's own report explains nothing
    return "\n".join(said.splitlines()[-LOG_TAIL:])


def _watch(process: subprocess.Popen, progress: Progress | None, kill_at: int | None) -> bool:
    """Wait for the end; return whether it came by our SIGKILL."""
    while process.poll() is None:
        if progress is not None:
            progress.say()
            if kill_at is not None and progress.last().get("step", 0) >= kill_at:
                kill_tree(process)
                return True
        time.sleep(0.2)
    return False


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL a process and all below it; torchrun's workers have sessions of their own."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself in between
    process.wait()


def descendants(pid: int) -> list[int]:
    """Return the processes below one, children before their children (Linux)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = int(status.rpartition(")")[2].split()[1])  # the name may hold anything
        children.setdefault(parent, []).append(int(folder.name))
    found = list(children.get(pid, []))
    for child in found:  # grows while it is walked
        found += children.get(child, [])
    return found
