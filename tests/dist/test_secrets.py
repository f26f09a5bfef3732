"""Keys of services come from the environment and appear nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
KEY, TOKEN = "0a1b2c3d4e5f" * 3 + "0a1b", "hf_" + "Zy9Xw8Vu7T" * 3


def command_lines() -> str:
    """What anybody on this machine sees of every process."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return b"\n".join(lines).decode(errors="replace")


def test_secrets_are_in_no_file_and_no_process_list(tiny_stages, tmp_path, wait_until):
    run, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    overrides = [
        *tiny_stages["cleaner"],
        f"trainer.output_dir={run}",
        "trainer.logger.kind=wandb",
        "trainer.max_steps=6",
        "trainer.log_every=1",
        "trainer.save_every=2",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "1", str(ROOT / "src/train.py"), *overrides]
    environment = {
        **os.environ,
        **{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(home)},
        **{"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "HF_TOKEN": TOKEN},
    }
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        seen = []

        def over() -> bool:
            seen.append(command_lines())
            return process.poll() is not None

        wait_until(over)
    text = (tmp_path / "said").read_text()
    assert process.returncode == 0, text
    assert any("wandb-core" in lines for lines in seen)  # its service was looked at as well
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "train.log", "metrics.jsonl", "training.pt"} <= names
    assert any(name.endswith(".wandb") for name in names)
    for secret in (KEY, TOKEN):
        assert not any(secret in lines for lines in seen)
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
