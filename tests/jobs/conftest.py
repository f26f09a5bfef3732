"""Stand-ins for the programs that job scripts call, and a folder to run them from."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Writes what it was called with, a word a line, and the secrets that it sees.
RECORDER = """#!/bin/sh
{ echo "$(basename "$0")"; printf '%s\\n' "$@"; } >>"$CALLS"
echo "key ${WANDB_API_KEY:-none} token ${HF_TOKEN:-none}" >>"$SECRETS"
"""


class Bench:
    """Runs job scripts with stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir()
        self.calls, self.secrets = folder / "calls", folder / "secrets"
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "VIRTUAL_ENV": "active",
            "CALLS": str(self.calls),
            "SECRETS": str(self.secrets),
            "SPEECH_DIRS": "dataset/demo/speech/train /data/more",
            "OUTPUT_DIR": str(folder / "out"),
        }
        self.program("nvidia-smi", "#!/bin/sh\necho 'GPU 0: a stand-in'\n")
        for name in ("torchrun", "python", "singularity"):
            self.program(name, RECORDER)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def run(self, script: str, *arguments: str, status: int = 0, **variables: str) -> list[str]:
        """Run a script and return the words of the calls that it made."""
        self.calls.write_text("")
        done = subprocess.run(
            ["bash", str(ROOT / "jobs" / script), *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.output = done.stdout + done.stderr
        assert done.returncode == status, self.output
        return self.calls.read_text().splitlines()

    def source(self, command: str, **variables: str) -> str:
        """Run a command of the shared file."""
        done = subprocess.run(
            ["bash", "-c", f"source jobs/common.sh; {command}"],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def after() -> Callable[[list[str], str], str]:
    """Return a function that gives the word after another one."""
    return lambda words, word: words[words.index(word) + 1]
