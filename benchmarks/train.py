"""Measure how fast a recipe trains: steps/s, audio a second, memory, time of each part.

    python benchmarks/train.py --model demo_wavefit_pretrain
    torchrun --standalone --nproc_per_node 8 benchmarks/train.py --model miipher2_feature_cleaner \
        model.encoder.source=/models/gemma-4-E2B-it trainer.batch_size=64

Weights are random, audio is generated; any override of `src/train.py` may follow. For a stage that
needs earlier stages, these are made with random weights.

With `--memory STEPS`, it writes the resident memory over so many steps instead, and by how much a
step raises it; with `--launches`, how many operations the passes of a step start, forward and
backward. With `trainer.compile=true`, operations that the compiler has fused count once, together;
no code is made of it for the CPU, which would take long, and nothing is computed.
"""

import argparse
import contextlib
import json
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from families import first_stages

from open_miipher.audio.io import AudioWriter
from open_miipher.base.errors import exit_on_user_error
from open_miipher.config import compose_run
from open_miipher.distributed import World, says, start
from open_miipher.index import scan, write_index
from open_miipher.training import Run, Trainer, prepare

_SAMPLE_RATE = 24000
_PARTS = ("model.encoder.", "model.cleaner.", "model.vocoder.", "model.discriminators.")
_QUIET = ["trainer.logger.kind=none", "trainer.log_every=1000000", "data.test.dir_list=[]"]


def main() -> int:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name under config/model")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument(
        "--json", type=Path, help="write the figures here too, and beside them what is drawn"
    )
    parser.add_argument("--memory", type=int, metavar="STEPS", help="watch memory instead of time")
    parser.add_argument("--launches", action="store_true", help="count operations instead of time")
    parser.add_argument("overrides", nargs="*", help="as for src/train.py")
    arguments = parser.parse_intermixed_args()
    world = start(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(world.broadcast(folder))
        if world.is_main:
            make_speech(shared / "speech")
        world.barrier()
        common = [f"data.train.dir_list=[{shared / 'speech'}]", *_QUIET, *arguments.overrides]
        if arguments.device:
            common.append(f"trainer.device={arguments.device}")
        common += earlier_stages(arguments.model, common, shared, world)
        output_dir = f"trainer.output_dir={shared / 'run'}"
        if arguments.model.endswith("_finetune"):  # its parts are empty: keys are added with a +
            common = [f"+{o}" if o.startswith(_PARTS) else o for o in common]
        run = compose_run([f"model={arguments.model}", output_dir, *common])
        if arguments.launches:
            figures = count_launches(run, world)
        elif arguments.memory:
            figures = watch_memory(prepare(run, world), arguments.memory)
        else:
            figures = measure(prepare(run, world), arguments.warmup, arguments.steps)
            audio_seconds = run.trainer.batch_size * run.plain["data"]["crop_seconds"]
            figures["audio_x_real_time"] = audio_seconds * figures["steps_per_second"]
        if world.is_main:
            report(arguments.model, figures)
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=2))
                if arguments.memory:
                    plot_memory(figures, arguments.json.with_suffix(".png"))
        world.barrier()
        world.close()
    return 0


def make_speech(directory: Path, num_files: int = 16, seconds: float = 12.0) -> None:
    """Write voice-like FLAC files (modulated harmonics over noise) and their index."""
    directory.mkdir(parents=True)
    t = np.arange(round(seconds * _SAMPLE_RATE)) / _SAMPLE_RATE
    for number in range(num_files):
        rng = np.random.default_rng(number)
        phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(4.4 * t + number)) / _SAMPLE_RATE
        voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(np.sin(19 * t), 0, 1)
        waveform = 0.1 * voice + 0.002 * rng.standard_normal(len(t))
        with AudioWriter(directory / f"{number}.flac", _SAMPLE_RATE, 1, format="flac") as writer:
            writer.write(waveform.astype(np.float32)[None])
    write_index(directory, scan(directory, ("flac",), num_workers=1).entries)


def earlier_stages(model: str, common: list[str], folder: Path, world: World) -> list[str]:
    """Make untrained stages 1 and 2 for a stage-3 model; return the overrides that name them."""
    if not model.endswith("_finetune"):
        return []
    found = []
    for key, stage in zip(("cleaner", "vocoder"), first_stages(model), strict=True):
        own = [f"model={stage}", f"trainer.output_dir={folder / stage}"]
        prepare(compose_run([*own, *common]), world).save()
        found.append(f"model.{key}_ckpt_dir={folder / stage}")
    return found


def measure(trainer: Trainer, warmup: int, steps: int) -> dict[str, Any]:
    """Time optimiser steps after a warm-up.

    Returns:
        Steps a second, peak memory in bytes, how often a step that is not logged waits for the GPU
        (None on a CPU), and the share of the time spent waiting for data, in the passes' forward,
        in backward, and in clipping, stepping and averaging.
    """
    clock = Clock(trainer)
    for _ in range(warmup):
        trainer.step()
    clock.seconds.clear()
    began = clock.now()
    for _ in range(steps):
        trainer.step()
    total = clock.now() - began
    cuda = trainer.world.device.type == "cuda"
    waits = waits_of_a_step(trainer) if cuda else None
    data, forward, gradients = (clock.seconds[n] for n in ("data", "forward", "accumulate"))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "ranks": trainer.world.size,
        "threads": torch.get_num_threads(),
        "batch_size": trainer.config.batch_size,
        "amp": trainer.config.amp,
        "steps_per_second": steps / total,
        "waits_a_step": waits,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else resident,
        "share": {
            "data": data / total,
            "forward": forward / total,
            "backward": (gradients - data - forward) / total,
            "update": (total - gradients) / total,
        },
    }


def watch_memory(trainer: Trainer, steps: int, num_points: int = 100) -> dict[str, Any]:
    """Take steps, and read the resident memory of this process now and then.

    Returns:
        Steps and bytes of each reading, and the slope of a line through those after the first
        quarter, in bytes a step.
    """
    points = []
    for step in range(1, steps + 1):
        trainer.step()
        if step % max(1, steps // num_points) == 0:
            trainer.read()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            points.append((step, pages * resource.getpagesize()))
    settled = np.array(points[len(points) // 4 :])
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    return {"memory": points, "bytes_a_step": slope}


def plot_memory(figures: dict[str, Any], file: Path) -> None:
    """Draw what `watch_memory` has read."""
    from matplotlib import pyplot

    steps, sizes = np.array(figures["memory"]).T
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="tight")
    axes.plot(steps, sizes / 2**20)
    axes.set(xlabel="step", ylabel="resident memory, MiB", ylim=(0, 1.15 * sizes.max() / 2**20))
    axes.set_title(f"{figures['bytes_a_step']:,.0f} bytes a step after the first quarter")
    figure.savefig(file, dpi=90)


# What makes or looks at tensors without computing anything.
_FREE = re.compile(
    r"aten::(empty|new_empty|as_strided|view|_unsafe_view|reshape|_reshape_alias|transpose|t|permute|"
    r"slice|select|expand|unsqueeze|squeeze|detach|alias|unbind|split|narrow|unfold|resize_|set_|"
    r"result_type|item|_local_scalar_dense|to|lift_fresh|view_as_real|view_as_complex|is_|numpy_T)"
)


# What is one operation for a GPU, however a CPU does it.
_WHOLE = re.compile(
    r"aten::(convolution|convolution_backward|_fft_\w+|sum|mean|col2im|im2col|copy_)$"
)


def _started(event: Any) -> int:
    """Count the operations in what the profiler saw, itself and all below it."""
    if _WHOLE.match(event.name):
        return 1
    below = sum(map(_started, event.cpu_children))
    is_one = event.name.startswith("aten::") and not _FREE.match(event.name)
    return below or int(is_one)


def count_launches(run: Run, world: World) -> dict[str, Any]:
    """Count the operations that the passes of a step start, forward and backward."""
    from torch._inductor import async_compile, scheduler
    from torch.profiler import ProfilerActivity, profile

    fused = 0

    def noted(self: Any, stock: Any = scheduler.Scheduler.codegen) -> Any:
        nonlocal fused
        kinds = (scheduler.SchedulerNode, scheduler.FusedSchedulerNode)
        fused += sum(isinstance(node, kinds) for node in self.nodes)
        return stock(self)

    with (
        patch.object(scheduler.Scheduler, "codegen", noted),
        patch.object(async_compile.AsyncCompile, "cpp_pybinding", lambda *_: lambda *_: None),
    ):
        trainer = prepare(run, world)
        trainer.accumulate()
        for optimizer in trainer.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # as each step does: else gradients are added
        before = fused
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            trainer.accumulate()
    assert fused == before, "a step with the shapes of the first was compiled anew"
    tops = [event for event in watched.events() if event.cpu_parent is None]
    started = sum(map(_started, tops))
    return {"fused": fused, "others": started, "launches": fused + started}


def waits_of_a_step(trainer: Trainer) -> int:
    """Count the operations of one step in which the processor waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


class Clock:
    """Adds up the seconds of a trainer's parts; waits for the GPU before and after each.

    Args:
        trainer: its data, its recipe's passes and its accumulation are timed from now on.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.world.device
        self.seconds: dict[str, float] = defaultdict(float)
        accumulate, passes = trainer.accumulate, trainer.recipe.passes

        def timed_accumulate() -> tuple[dict[str, torch.Tensor], list[str]]:
            with self._timing("accumulate"):
                return accumulate()

        trainer.batches = self._timed("data", trainer.batches)
        trainer.recipe.passes = lambda *a: self._timed("forward", passes(*a))  # type: ignore[method-assign]
        trainer.accumulate = timed_accumulate  # type: ignore[method-assign]

    def now(self) -> float:
        """Return the time after the device has finished all work so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def _timing(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.seconds[name] += self.now() - began

    def _timed(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            with self._timing(name):
                item = next(items, None)
            if item is None:
                return
            yield item


def report(model: str, figures: dict[str, Any]) -> None:
    """Print the figures."""
    if "share" not in figures:
        shown = {name: value for name, value in figures.items() if name != "memory"}
        print(f"{model}: {', '.join(f'{name} {value:,.0f}' for name, value in shown.items())}")
        return
    share = "  ".join(f"{name} {value:.0%}" for name, value in figures["share"].items())
    print(
        f"{model} on {figures['ranks']} × {figures['device']} ({figures['threads']} threads), "
        f"batch {figures['batch_size']}, amp {figures['amp']}\n"
        f"  {figures['steps_per_second']:.2f} steps/s, "
        f"{figures['audio_x_real_time']:.1f} s of audio a second, "
        f"peak memory {figures['peak_memory_bytes'] / 2**30:.2f} GiB\n  {share}"
    )


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main, says)())
