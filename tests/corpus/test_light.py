"""The scripts answer -h, and tell of a run, before anything slow is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from open_miipher.commands.restore import parse_arguments
from open_miipher.restoration import RestoreOptions
from open_miipher.restoration.job import LEVELS, NORMALISE_OVER

SOURCE = Path(__file__).parents[2] / "src"
SLOW = {"torch", "numpy", "scipy", "soundfile", "hydra", "transformers", "yaml", "tqdm", "fsspec"}


def imported(script: str, *words: str) -> set[str]:
    program = (
        "import json, runpy, sys\n"
        f"sys.argv = {[script, *words]!r}\n"
        "try:\n"
        f"    runpy.run_path({str(SOURCE / script)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("script", ["inference.py", "preprocess.py", "status.py"])
def test_help_imports_nothing_slow(script: str) -> None:
    assert not imported(script, "-h") & SLOW


def test_status_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / ".ledger").mkdir()
    (tmp_path / ".ledger/run.json").write_text('{"number": 1, "identity": {}}')
    row = '{"run": 1, "id": "a.wav", "seconds": 1.0, "error": null}\n'
    (tmp_path / ".ledger/rank-00000.jsonl").write_text(row)
    assert not imported("status.py", str(tmp_path)) & SLOW


def test_the_command_lines_choices_and_defaults_are_those_of_the_options() -> None:
    words = ["--ckpt-dir", "c", "--input-audio-dir", "i", "--output-dir", "o"]
    arguments, options = parse_arguments(words), RestoreOptions()
    for name in RestoreOptions.__dataclass_fields__:
        assert getattr(arguments, name) == getattr(options, name)
    for option, choices in (("--level", LEVELS), ("--normalise-over", NORMALISE_OVER)):
        for choice in choices:
            parse_arguments([*words, option, choice])
