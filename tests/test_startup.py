"""No command imports what is slow before it knows that it is needed: `-h` answers at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path
    for path in [*ROOT.glob("src/*.py"), *ROOT.glob("dataset/script/*.py"), ROOT / "src/demo"]
    if path.is_dir() or '__name__ == "__main__"' in path.read_text()
)
SLOW = (
    "aiohttp",
    "botocore",
    "datasets",
    "fsspec",
    "huggingface_hub",
    "hydra",
    "matplotlib",
    "pyarrow",
    "pyroomacoustics",
    "ray",
    "s3fs",
    "scipy",
    "tensorboard",
    "torch",
    "torchaudio",
    "transformers",
    "wandb",
)
PROGRAM = """\
import json, runpy, sys
script, *slow = sys.argv[1:]
sys.argv = [script, "-h"]
sys.path[0] = script.rpartition("/")[0]  # as python does with a script
try:
    runpy.run_path(script, run_name="__main__")
finally:
    print(json.dumps([name for name in slow if name in sys.modules]), file=sys.stderr)
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_comes_before_anything_slow(script: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(script), *SLOW]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
    assert json.loads(done.stderr) == []
