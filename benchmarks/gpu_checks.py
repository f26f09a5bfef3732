"""Run all checks that need a GPU, with random weights and generated audio (benchmarks/gpu.sh)."""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

NEEDED = ("transformers", "hydra", "soundfile", "soxr", "safetensors", "pytest", "scipy")
# bfloat16 has 8 bits: each of some hundred successive operations has a rounding error of 2^-9.
LARGEST_ERROR = {"features": 0.05, "waveform": 0.2}
TRAIN_BATCH = 32
SUMMARY = ("steps_per_second", "audio_x_real_time", "times_real_time", "peak_memory_bytes")

Outcome = tuple[bool, str, dict[str, Any]]


@dataclass
class Result:
    """The result of one check."""

    check: str
    passed: bool
    seconds: float
    summary: str
    figures: dict[str, Any]


class Checks:
    """The checks, one after the other.

    Args:
        out: folder for logs and figures.
        scratch: folder for the encoder, some gigabytes that are not needed afterwards.
        device: cuda or cpu.
        tiny: use a small encoder, short audio and few steps, to rehearse on a CPU.
    """

    def __init__(self, out: Path, scratch: Path, device: str, tiny: bool) -> None:
        self.out, self.device, self.tiny = out, device, tiny
        self.tower = scratch / "tower"
        self.encoder = f"model.encoder.source={self.tower}"
        self.results: list[Result] = []

    def run(self) -> bool:
        """Run all checks; a failed one does not stop the rest."""
        self.check("tests marked gpu", self.tests)
        self.check("an encoder of random weights", self.make_tower)
        self.check("bf16 against float32", self.compare_bf16)
        for stage in ("feature_cleaner", "wavefit_pretrain", "wavefit_finetune"):
            self.check(f"train miipher2_{stage}", lambda stage=stage: self.train(stage))
        self.check("restore with miipher2", self.restore)
        return all(result.passed for result in self.results)

    def check(self, name: str, action: Callable[[], Outcome]) -> None:
        """Run one check; keep and print its result."""
        print(f"{name} …", flush=True)
        started = time.perf_counter()
        try:
            passed, summary, figures = action()
        except (UserError, RuntimeError, ValueError, TypeError, LookupError, OSError) as error:
            passed, summary, figures = False, f"{type(error).__name__}: {error}"[:200], {}
        seconds = time.perf_counter() - started
        self.results.append(Result(name, passed, seconds, summary, figures))
        print(f"  {'passed' if passed else 'FAILED'}, {seconds:.0f} s: {summary}", flush=True)

    def tests(self) -> Outcome:
        """Run the tests that are marked gpu; a rehearsal only collects them."""
        words = ["-m", "pytest", "-q", "-m", "gpu"]
        if self.device == "cpu":
            words.append("--collect-only")
        passed, last = self.command("pytest", words)
        return passed, last, {}

    def make_tower(self) -> Outcome:
        """Write an audio tower of Gemma 4's size (or a small one) as `save_pretrained` does."""
        from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        small = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
        torch.manual_seed(0)
        tower = Gemma4AudioModel(Gemma4AudioConfig(**(small if self.tiny else {})))
        tower.save_pretrained(self.tower)
        count = sum(parameter.numel() for parameter in tower.parameters())
        return True, f"{count / 1e6:.1f} M parameters", {"parameters": count}

    @torch.inference_mode()
    def compare_bf16(self) -> Outcome:
        """Compare the cleaner's features and the vocoder's waveform in bf16 with float32."""
        cleaner, vocoder = (part.to(self.device).eval() for part in self.parts())
        waveform = speech_like(2.0 if self.tiny else 10.0, cleaner.encoder.sample_rate)
        lengths = torch.tensor([waveform.shape[1], waveform.shape[1] // 2], device=self.device)
        waveform = waveform.to(self.device)
        features, _ = cleaner(waveform, lengths)
        samples = features.shape[1] * vocoder.hop_length
        noise = torch.randn(len(features), samples, device=self.device)
        exact = {"features": features, "waveform": vocoder.generate(features, noise)}
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            rounded = {"features": cleaner(waveform, lengths)[0]}
            rounded["waveform"] = vocoder.generate(features, noise)
        errors = {name: relative_error(exact[name], rounded[name]) for name in exact}
        said = ", ".join(f"{k} {e:.4f} (at most {LARGEST_ERROR[k]})" for k, e in errors.items())
        return all(errors[k] <= LARGEST_ERROR[k] for k in errors), f"error {said}", errors

    def parts(self) -> tuple[nn.Module, nn.Module]:
        """Build the paper's cleaner, with adapters that do something, and its vocoder."""
        from open_miipher.base.registry import build
        from open_miipher.cleaners import CLEANERS
        from open_miipher.config import compose_plain
        from open_miipher.encoders import ENCODERS
        from open_miipher.vocoders import VOCODERS

        first = compose_plain(["model=miipher2_feature_cleaner", self.encoder])["model"]
        second = compose_plain(["model=miipher2_wavefit_pretrain", self.encoder])["model"]
        torch.manual_seed(0)
        encoder = build(ENCODERS, first["encoder"])
        cleaner = build(CLEANERS, {**first["cleaner"], "init": "random"}, encoder)
        rate = encoder.sample_rate / encoder.hop_length
        vocoder = build(VOCODERS, second["vocoder"], encoder.width, rate)
        for module in vocoder.modules():  # an untrained vocoder changes nearly nothing: scale it up
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        return cleaner, vocoder

    def train(self, stage: str) -> Outcome:
        """Measure the training of a paper-size stage."""
        words = ["benchmarks/train.py", "--model", f"miipher2_{stage}", "--device", self.device]
        batch = 2 if self.tiny else TRAIN_BATCH
        extra = [f"trainer.batch_size={batch}", "trainer.amp=bf16", self.encoder]
        if self.tiny:
            words += ["--steps", "1", "--warmup", "1"]
            extra += ["data.crop_seconds=0.64", "trainer.num_workers=0"]
        return self.benchmark(f"train_{stage}", words, extra)

    def restore(self) -> Outcome:
        """Measure the restoring of files by a paper-size chain."""
        words = ["benchmarks/restore.py", "--model", "miipher2_wavefit_finetune"]
        words += ["--device", self.device, "--amp", "bf16"]
        size = ("1", "2", "1") if self.tiny else ("8", "60", "16")
        for option, value in zip(("--files", "--seconds", "--batch-size"), size, strict=True):
            words += [option, value]
        return self.benchmark("restore", words, [self.encoder])

    def benchmark(self, name: str, words: list[str], overrides: list[str]) -> Outcome:
        """Run a benchmark that writes its figures as JSON."""
        path = self.out / f"{name}.json"
        passed, last = self.command(name, [*words, "--json", str(path), *overrides])
        if not passed:
            return False, last, {}
        figures = json.loads(path.read_text())
        path.unlink()  # the figures are in gpu.json
        said = ", ".join(f"{k} {figures[k]:.4g}" for k in SUMMARY if figures.get(k) is not None)
        return True, said, figures

    def command(self, name: str, words: list[str]) -> tuple[bool, str]:
        """Run this Python; return whether it succeeded, and its last line of output."""
        log = self.out / f"{name}.log"
        with open(log, "w") as file:
            process = subprocess.run(
                [sys.executable, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )
        lines = log.read_text(errors="replace").strip().splitlines()
        return process.returncode == 0, (lines[-1] if lines else "it said nothing")[:200]


def speech_like(seconds: float, sample_rate: int) -> Tensor:
    """Make two different sounds of gliding harmonics in noise: (2, samples)."""
    t = torch.arange(round(seconds * sample_rate)) / sample_rate
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(2, len(t))
    for row, pitch in enumerate((110.0, 190.0)):
        phase = 2 * torch.pi * torch.cumsum(pitch * (1 + 0.1 * torch.sin(4 * t)), 0) / sample_rate
        voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0)
        noise[row] += 0.1 * voice * torch.sin(9 * t + row).clamp_min(0)
    return noise


def relative_error(exact: Tensor, rounded: Tensor) -> float:
    """Return ‖a - b‖ / ‖a‖."""
    return float((exact.float() - rounded.float()).norm() / exact.float().norm())


def environment(device: str) -> dict[str, Any]:
    """Describe the machine that the figures come from."""
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def main() -> int:
    """Look for a GPU, run the checks, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("out_dir", type=Path, help="gets gpu.json and the logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small: to rehearse on a CPU")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: no usable GPU is here; `make doctor` says why", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {sys.executable} lacks {', '.join(missing)}: make setup", file=sys.stderr)
        return 2
    from open_miipher.evaluation.tables import format_table

    out = arguments.out_dir.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        checks = Checks(out, Path(scratch), arguments.device, arguments.tiny)
        passed = checks.run()
    results = [asdict(result) for result in checks.results]
    content = {**environment(arguments.device), "tiny": arguments.tiny, "checks": results}
    (out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    rows = [
        [r.check, "passed" if r.passed else "FAILED", f"{r.seconds:.0f}", r.summary]
        for r in checks.results
    ]
    print("\n" + format_table(["check", "result", "seconds", "figures"], rows))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
