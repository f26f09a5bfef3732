"""Names and output under other locales, and output that nobody takes; as users start programs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
INDEX = "dataset/script/make_metadata_csv.py"
# Of a locale with another encoding of names than UTF-8, as Latin-1; this one is everywhere.
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def run(
    command: str, environment: dict[str, str] | None = None, shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of the repository, with something behind it for the shell."""
    words = ["bash", "-c", f'set -o pipefail; "$0" {command} {shell}', sys.executable]
    return subprocess.run(
        words, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, check=False
    )


def test_names_stay_what_they_are_in_a_locale_that_is_not_utf_8(tmp_path: Path) -> None:
    """The name was written as its bytes' Latin-1 letters, or not at all."""
    soundfile.write(tmp_path / "Grüße 日本.flac", np.zeros(100), 8000)
    for workers in "12":
        command = f"{INDEX} --root-dir {tmp_path} --num-workers {workers}"
        done = run(command, ASCII)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "metadata.csv").read_text(encoding="utf-8").splitlines()
        assert lines[1:] == ["Grüße 日本.flac,8000,100,1"]


@pytest.mark.parametrize("script", ["src/inference.py", "src/train.py", "src/status.py", INDEX])
@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_help_is_printed_everywhere(script: str, environment: dict[str, str]) -> None:
    done = run(f"{script} -h", environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage:")
    done.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        ("| head -c 0", 0, b""),
        ("> /dev/full", 1, b"standard output cannot be written (No space left on device)"),
    ],
)
def test_output_that_nobody_takes_ends_no_work(
    tmp_path: Path, shell: str, status: int, said: bytes
) -> None:
    """There were tracebacks, and an output directory that was said to be full."""
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 8000)
    done = run(f"{INDEX} --root-dir {tmp_path} --num-workers 1", shell=shell)
    assert done.returncode == status
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr
    assert (tmp_path / "metadata.csv").read_text().endswith("a.flac,8000,100,1\n")
