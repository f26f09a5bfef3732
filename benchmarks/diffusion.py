"""Measure the diffusion: training steps, sampling, and what they are compared with.

    python benchmarks/diffusion.py --json output/diffusion.json
    python benchmarks/diffusion.py --device cuda --paper --json output/diffusion.json

On a CPU: a training step of WaveNet against one of plain layers (the same sizes, written as the
paper draws them), one of SaShiMi against itself with the kernel computed by the whole Vandermonde
matrix, and the vocoder of 64 channels by all 50 steps and by six, on one second of audio. `--paper`
measures the four sizes of the papers instead: training steps, eager and compiled, and both ways
of sampling.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from processes import peak_bytes

from open_miipher.base.registry import build
from open_miipher.config import compose_run
from open_miipher.diffusion import BACKBONES, FAST_LEVELS, Backbone, sample
from open_miipher.layers import ssm
from open_miipher.training.setup import build_recipe

PAPER = ("sashimi", "wavenet", "diffwave_vocoder_64", "diffwave_vocoder_128")
WAVENET = {"name": "wavenet", "res_channels": 64, "skip_channels": 64, "num_res_layers": 12}
SASHIMI = {"name": "sashimi", "d_model": 32, "n_layers": 2}
SAMPLES = 16000


class PlainLayer(nn.Module):
    """DiffWave's residual layer, one module for each of its boxes (its figure 2)."""

    def __init__(self, width: int, skip: int, embedding: int, dilation: int) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.step = nn.Linear(embedding, width)
        self.dilated = norm(nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation))
        self.residual = norm(nn.Conv1d(width, width, 1))
        self.skip = norm(nn.Conv1d(width, skip, 1))

    def forward(self, x: Tensor, step: Tensor, mel: Tensor | None) -> tuple[Tensor, Tensor]:
        """(batch, width, samples), (batch, embedding) -> the next x, and the skip."""
        h = self.dilated(x + self.step(step)[:, :, None])
        width = x.shape[1]
        h = torch.tanh(h[:, :width]) * torch.sigmoid(h[:, width:])
        return (x + self.residual(h)) * math.sqrt(0.5), self.skip(h)


def plain_wavenet(backbone: Backbone) -> nn.Module:
    """Give a WaveNet plain layers."""
    config: Any = backbone.config
    sizes = (config.res_channels, config.skip_channels, config.diffusion_step_embed_dim_out)
    dilations = [2 ** (n % config.dilation_cycle) for n in range(config.num_res_layers)]
    backbone.layers = nn.ModuleList(PlainLayer(*sizes, dilation) for dilation in dilations)
    return backbone


@contextmanager
def whole_vandermonde() -> Iterator[None]:
    """Within, compute kernels by a matrix with a number for every state and sample."""

    def series(weights: Tensor, exponents: Tensor, num_samples: int) -> Tensor:
        counts = torch.arange(num_samples, device=weights.device)
        powers = (exponents[..., None] * counts).exp()
        return (weights[..., None] * powers).sum(-2).real.float()

    with mock.patch.object(ssm, "power_series", series):
        yield


def training_step(network: nn.Module, batch: int, device: str, amp: bool) -> Callable[[], None]:
    """Return a step of the diffusion's loss and its backward."""
    x = torch.randn(batch, 1, SAMPLES, device=device)
    steps = torch.randint(50, (batch,), device=device).double()

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            guess = network(x, steps)
        (guess - x).square().mean().backward()

    return step


def seconds(action: Callable[[], object], device: str, repeats: int, warmup: int = 1) -> float:
    """Return the shortest of some runs, after a warm-up."""
    for _ in range(warmup):
        action()
    shortest = math.inf
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        action()
        _wait(device)
        shortest = min(shortest, time.perf_counter() - began)
    return shortest


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare_steps(repeats: int) -> dict[str, float]:
    """Time training steps beside what they are compared with, in turns."""
    torch.manual_seed(0)
    ours = build(BACKBONES, WAVENET)
    plain = plain_wavenet(build(BACKBONES, WAVENET))
    sashimi = build(BACKBONES, SASHIMI)
    times = {
        "wavenet": seconds(training_step(ours, 4, "cpu", False), "cpu", repeats),
        "plain_wavenet": seconds(training_step(plain, 4, "cpu", False), "cpu", repeats),
        "sashimi": seconds(training_step(sashimi, 4, "cpu", False), "cpu", repeats),
    }
    with whole_vandermonde():
        step = training_step(sashimi, 4, "cpu", False)
        times["sashimi_whole_vandermonde"] = seconds(step, "cpu", repeats)
    return times


def vocode(model: str, device: str, repeats: int, batch: int = 1) -> dict[str, float]:
    """Time both samplings of one second of audio in turns; from nothing, or from a mel.

    Returns the medians, as times real time, and how long one step took in each, in seconds.
    """
    torch.manual_seed(0)
    experiment = "ljspeech" if "vocoder" in model else "sc09"
    run = compose_run([f"model={model}", f"experiment={experiment}"])
    recipe: Any = build_recipe(run.model, run.data, 0)
    recipe.to(torch.device(device))
    backbone, schedule, mel, num_samples = recipe.backbone.eval(), recipe.schedule, None, SAMPLES
    if recipe.condition is not None:
        hop = run.model["mel"]["hop_length"]
        frames = round(recipe.sample_rate / hop)
        mel, num_samples = torch.randn(batch, run.model["mel"]["n_mels"], frames), frames * hop
        mel = mel.to(device)
    audio = batch * num_samples / recipe.sample_rate
    items = torch.arange(batch)
    descents = {"fast": schedule.fast(FAST_LEVELS), "full": schedule.full}
    taken: dict[str, list[float]] = {name: [] for name in descents}
    for turn in range(repeats + 1):
        for name, descent in descents.items():
            if turn == 0 and name == "full":
                continue  # the six steps have warmed up both
            run_once = lambda d=descent: sample(backbone, d, items, num_samples, 0, mel)  # noqa: E731
            once = seconds(run_once, device, 1, warmup=0)
            if turn > 0:
                taken[name].append(once)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    figures = {f"{name}_x_real_time": audio / median for name, median in medians.items()}
    for name, median in medians.items():
        figures[f"{name}_seconds_a_step"] = median / len(descents[name].steps)
    return figures


def paper(device: str, repeats: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Time the papers' sizes: training steps of 8 s of audio, and sampling.

    Yields:
        The model and its figures, as they are found: first all that takes no compiling.
    """
    for model in PAPER:
        step = training_step(paper_recipe(model, device).backbone, 8, device, amp=True)
        yield model, {"eager_steps_per_second": 1 / seconds(step, device, repeats)}
        yield model, vocode(model, device, repeats, batch=8)
    for model in PAPER:
        backbone = torch.compile(paper_recipe(model, device).backbone)
        step = training_step(backbone, 8, device, amp=True)
        yield model, {"compiled_steps_per_second": 1 / seconds(step, device, repeats, warmup=3)}


def paper_recipe(model: str, device: str) -> Any:
    """Build the recipe of one of the papers' sizes, without a mel."""
    torch.manual_seed(0)
    experiment = "ljspeech" if "vocoder" in model else "sc09"
    run = compose_run([f"model={model}", f"experiment={experiment}", "model.unconditional=true"])
    recipe: Any = build_recipe(run.model, run.data, 0)
    recipe.to(torch.device(device))
    return recipe


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--paper", action="store_true", help="the papers' sizes: for a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too, as they are found")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}

    def keep() -> None:
        figures["peak_memory_bytes"] = (
            torch.cuda.max_memory_allocated() if arguments.device == "cuda" else peak_bytes()
        )
        if arguments.json:
            part = arguments.json.with_suffix(".part")
            part.write_text(json.dumps(figures, indent=2) + "\n")
            part.replace(arguments.json)

    if arguments.paper:
        for model, found in paper(arguments.device, arguments.repeats):
            figures[model] = figures.get(model, {}) | found
            keep()
    else:
        figures["seconds_a_step"] = compare_steps(arguments.repeats)
        keep()
        figures["diffwave_vocoder_64"] = vocode("diffwave_vocoder_64", "cpu", arguments.repeats)
    keep()
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
