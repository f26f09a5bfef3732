"""Every benchmark starts, and the checks for a GPU go on whatever becomes of one of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from captured import leave_out_code

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
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--against", ".", "--launches"], "--launches: not allowed with argument --against"),
        (["--against", ".", "--memory", "9"], "--memory: not allowed with argument --against"),
        (["--compiled"], "--compiled compares with --against TREE: give that too"),
    ],
)
def test_what_a_benchmark_would_not_measure_it_refuses(options: list[str], words: str) -> None:
    command = [sys.executable, str(FOLDER / "train.py"), "--model", "small_restorer", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.slow
def test_an_index_is_measured_without_a_cache_and_without_workers() -> None:
    command = [sys.executable, FOLDER / "index.py", "--rows", "100", "--ranks", "2"]
    done = subprocess.run([*command, "--workers", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "many: 2 ranks of 0 workers take" in done.stdout


@pytest.mark.slow
def test_a_check_that_dies_hangs_or_fails_stops_no_other_and_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import gpu_checks

    checks = gpu_checks.Checks(tmp_path, tmp_path, "cpu", tiny=False, seconds=600, longest=45)
    checks.check("dies", checks.apart(os._exit, 3))
    checks.check("fails", checks.apart(int, "no number"))
    checks.check("hangs", checks.apart(time.sleep, 600))
    checks.check("works", lambda: (True, "fine", {"number": 1}))
    checks._ends = time.monotonic()
    checks.check("comes too late", lambda: (True, "fine", {}))
    found = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    said = {check["check"]: check["summary"] for check in found}
    assert [check["passed"] for check in found] == [False, False, False, True, False]
    assert "ended with 3" in said["dies"]
    assert "ValueError" in said["fails"]
    assert "took too long" in said["hangs"]
    assert "not tried" in said["comes too late"]
    assert found[3]["figures"] == {"number": 1}


@pytest.mark.slow
def test_what_a_benchmark_found_before_it_failed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import gpu_checks

    script = "import sys; open(sys.argv[-1], 'w').write('{\"number\": 1}'); sys.exit('no more')"
    checks = gpu_checks.Checks(tmp_path, tmp_path, "cpu", tiny=False, seconds=600)
    assert checks.benchmark("one", ["-c", script], []) == (False, "no more", {"number": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["one.log"]


@pytest.mark.slow
def test_the_checks_for_a_gpu_can_be_rehearsed(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--only", "front ends", "wavenext2_pretrain alone"]
    command = ["sh", str(FOLDER / "gpu.sh"), str(tmp_path), *words]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert [check["passed"] for check in found] == [True] * 3
    assert set(found[1]["figures"]["by_chunk_seconds"]) == {"0.03", "0.06", "0.18"}
    assert (tmp_path / "profile_miipher2_wavenext2_pretrain.txt").stat().st_size


@pytest.mark.slow
def test_the_papers_diffusions_are_compiled_after_all_else_was_found(monkeypatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import diffusion

    leave_out_code(monkeypatch.setattr)
    small = ["res_channels=8", "skip_channels=8", "num_res_layers=2", "dilation_cycle=2"]
    small = [f"model.{size}" for size in [*small, "diffusion.T=50", "diffusion.beta_T=0.05"]]
    compose = diffusion.compose_run
    monkeypatch.setattr(diffusion, "compose_run", lambda words: compose([*words, *small]))
    monkeypatch.setattr(diffusion, "PAPER", ("wavenet", "wavenet_small"))
    monkeypatch.setattr(diffusion, "SAMPLES", 2000)
    found = [(model, name) for model, own in diffusion.paper("cpu", 1) for name in own]
    assert found[0] == ("wavenet", "eager_steps_per_second")
    assert ("wavenet_small", "full_x_real_time") in found
    compiled = [(model, "compiled_steps_per_second") for model in ("wavenet", "wavenet_small")]
    assert found[-2:] == compiled


@pytest.mark.slow
def test_stage_3_is_measured_with_the_parts_that_were_asked_for(tmp_path: Path) -> None:
    words = ["--model", "demo_wavefit_finetune", "--steps", "1", "--warmup", "1"]
    words += ["--device", "cpu", "--json", str(tmp_path / "found.json")]
    words += ["model.cleaner.num_blocks=1"]
    generator = ("condition_channels=16", "down_channels=[8]", "up_channels=[16,8]")
    words += [f"model.vocoder.generator.{size}" for size in generator]
    words += ["model.vocoder.griffin_lim_steps=1", "model.segment_seconds=0.2"]
    words += ["data.crop_seconds=0.4", "trainer.batch_size=2", "trainer.num_workers=0"]
    command = [sys.executable, str(FOLDER / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generator: 0.0" in done.stdout  # of 1.5 M weights
    assert json.loads((tmp_path / "found.json").read_text())["batch_size"] == 2


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
