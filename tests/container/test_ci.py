""".ci/run builds the image where it has changed and can be built, and else says why not."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the real .ci/run; make, the fingerprint and the image's test are stand-ins."""
    for name, text in {
        "bin/make": 'echo make "$@"',
        "container/fingerprint.sh": "echo new",
        "container/test.sh": "echo image tested",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    for name in ("sh", "grep", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def run(checkout: Path, tested: str, **variables: str) -> list[str]:
    (checkout / "container/tested.txt").write_text(f"fingerprint {tested}\n")
    result = subprocess.run(
        [checkout / ".ci/run"],
        env={"PATH": str(checkout / "bin"), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = result.stdout.splitlines()
    assert lines[:2] == ["make test-all", "make demo STEPS=40 60 30"]
    return lines[2:]


def test_nothing_changed(checkout: Path) -> None:
    (line,) = run(checkout, "new", CONTAINER_RUN="wrapper")
    assert line.startswith("image: not built, nothing in it has changed")


def test_changed_but_cannot_be_built(checkout: Path) -> None:
    (line,) = run(checkout, "old")
    assert "neither singularity nor CONTAINER_RUN is here" in line


def test_changed_and_can_be_built(checkout: Path) -> None:
    assert run(checkout, "old", CONTAINER_RUN="wrapper") == ["image tested"]
    (checkout / "bin/singularity").symlink_to(str(shutil.which("true")))
    assert run(checkout, "old") == ["image tested"]
