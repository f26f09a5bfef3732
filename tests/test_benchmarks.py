"""Every benchmark starts: what it imports is there under that name."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(p for p in FOLDER.glob("*.py") if '__name__ == "__main__"' in p.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_answers_to_help(script: Path) -> None:
    command = [sys.executable, str(script), "-h"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.slow
def test_what_is_started_is_counted_as_a_gpu_would_be_asked(monkeypatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from launches import planned_for_a_gpu, started

    x, weight, bias = torch.randn(2, 4, 64), torch.randn(8, 4, 3), torch.randn(8)
    torch._dynamo.reset()
    with planned_for_a_gpu() as planned:
        convolve = torch.compile(lambda x: torch.conv1d(x, weight, bias).relu().neg())
        result = convolve(x)
    torch.testing.assert_close(result, torch.conv1d(x, weight, bias).relu().neg())
    assert planned == {"convolution": 1, "fused": 1}  # the bias is added in the fused kernel
    assert started(lambda: convolve(x)).total() == 0
    assert started(lambda: torch.conv1d(x, weight, bias).relu().neg()) == {
        "convolution": 1,
        "clamp_min": 1,
        "neg": 1,
    }
