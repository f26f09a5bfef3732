"""entry.sh, what `singularity run` does: each command reaches its script, others are refused."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "container/entry.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder whose torchrun and python say how they were called; counting GPUs says 3."""
    for name in ("torchrun", "python"):
        script = f'#!/bin/sh\n[ "$1" = - ] && echo 3 && exit\necho {name} "$@"\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def call(programs: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        [ENTRY, *words], env=environment, capture_output=True, text=True, cwd=programs
    )


@pytest.mark.parametrize(
    ("command", "script"), [("train", "src/train.py"), ("restore", "src/inference.py")]
)
def test_train_and_restore_start_a_process_a_gpu(programs: Path, command: str, script: str) -> None:
    said = call(programs, command, "a=1", "b c").stdout.split()
    assert said[:4] == ["torchrun", "--standalone", "--nproc_per_node", "3"]
    assert said[-4:] == [str(ROOT / script), "a=1", "b", "c"]


def test_nproc_wins_over_the_gpus(programs: Path) -> None:
    assert "--nproc_per_node 5 " in call(programs, "train", NPROC="5").stdout


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("demo", "src/demo"),
        ("index", "dataset/script/make_metadata_csv.py"),
        ("rir-bank", "dataset/script/make_rir_bank.py"),
        ("preview", "dataset/script/preview_degradations.py"),
        ("fetch", "src/fetch_models.py"),
        ("status", "src/status.py"),
        ("doctor", "src/doctor.py"),
    ],
)
def test_the_others_run_alone(programs: Path, command: str, script: str) -> None:
    assert (ROOT / script).exists()
    said = call(programs, command, "--flag").stdout.split()
    assert said[:2] == ["python", str(ROOT / script)]
    assert said[-1] == "--flag"


def test_exec_runs_any_program(programs: Path) -> None:
    assert call(programs, "exec", "torchrun", "x.py").stdout == "torchrun x.py\n"


def test_help_lists_every_command(programs: Path) -> None:
    text = call(programs).stdout
    commands = [
        line.strip().split(")")[0]
        for line in ENTRY.read_text().splitlines()
        if line.startswith("  ") and ") " in line and ";;" in line and "|" not in line
    ]
    assert len(commands) == 10
    assert all(f"\n  {command} " in text for command in commands)


def test_an_unknown_command_is_one_sentence(programs: Path) -> None:
    result = call(programs, "trian")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: trian is no command")
    assert result.stderr.count("\n") == 1


def test_the_environment_shuts_out_the_hosts_python(programs: Path) -> None:
    lines = call(programs, "exec", "env", PYTHONPATH="/host", TMPDIR="/scratch").stdout.split("\n")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found["PYTHONPATH"] == found["PYTHONHOME"] == ""
    assert found["PYTHONNOUSERSITE"] == "1"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"
    assert found["PATH"].startswith("/opt/venv/bin:")
    assert found["TRITON_CACHE_DIR"] == f"/scratch/triton-{os.getuid()}"
    kept = call(programs, "exec", "env", TRITON_CACHE_DIR="/mine").stdout
    assert "TRITON_CACHE_DIR=/mine\n" in kept
