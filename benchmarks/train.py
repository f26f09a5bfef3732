"""Measure how fast a recipe trains: steps/s, audio a second, memory, time of each part.

    python benchmarks/train.py --model demo_wavefit_pretrain
    torchrun --standalone --nproc_per_node 8 benchmarks/train.py --model miipher2_feature_cleaner \
        model.encoder.source=/models/gemma-4-E2B-it trainer.batch_size=64

Weights are random, audio is generated; any override of `src/train.py` may follow. For a stage that
needs earlier stages, these are made with random weights.

With `--memory STEPS`, it writes the resident memory over so many steps instead, and by how much a
step raises it; with `--launches`, how many kernels the passes of a step have a GPU start, forward
and backward (`launches.py` says how they are counted where there is none).

With `--against TREE`, another checkout of this project, both take steps by turns, each in a process
of its own (with `--compiled`, a third with `trainer.compile=true`): the time of a step without the
data, by the clock and of the processor, all threads, and the kinds of operations it goes into.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Of the checkout whose steps are taken: another one with `--against`.
sys.path.insert(0, os.environ.get("MEASURED_TREE", str(Path(__file__).resolve().parents[1])))
sys.path.insert(0, f"{sys.path[0]}/benchmarks")
sys.path.insert(0, f"{sys.path[1]}/src")

from families import first_stages
from material import noisy_voices
from processes import peak_bytes, resident_bytes

from open_miipher.audio.io import AudioWriter
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.config import compose_run
from open_miipher.distributed import World, says, start
from open_miipher.index import scan, write_index
from open_miipher.training import Run, Trainer, prepare

_OWN = Path(__file__).resolve().parents[1]
_SAMPLE_RATE = 24000
_PARTS = ("model.encoder.", "model.cleaner.", "model.vocoder.", "model.discriminators.")
_OF_OTHERS = {
    "cleaner": ("model.vocoder.", "model.discriminators.", "model.segment_", "model.pieces_"),
    "vocoder": ("model.cleaner.", "model.pieces_"),
}
"""Of the overrides of stage 3, those that the stage of this part does not know."""

_QUIET = ["trainer.logger.kind=none", "trainer.log_every=1000000", "data.test.dir_list=[]"]


def options() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name under config/model")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument(
        "--json", type=Path, help="write the figures here too, and beside them what is drawn"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--memory", type=int, metavar="STEPS", help="watch memory instead of time")
    what.add_argument("--launches", action="store_true", help="count operations instead of time")
    what.add_argument("--against", type=Path, metavar="TREE", help="compare with a checkout")
    parser.add_argument("--compiled", action="store_true", help="compare trainer.compile=true too")
    parser.add_argument("overrides", nargs="*", help="as for src/train.py")
    arguments = parser.parse_intermixed_args()
    if arguments.compiled and not arguments.against:
        parser.error("--compiled compares with --against TREE: give that too")
    if arguments.against and not (arguments.against / "src/open_miipher").is_dir():
        parser.error(f"--against {arguments.against}: no checkout of this project is there")
    return arguments


def main() -> int:
    """Measure one model."""
    arguments = options()
    if arguments.against and "MEASURED_TREE" not in os.environ:
        sides: dict[str, tuple[Path, list[str]]] = {
            "before": (arguments.against, []),
            "now": (_OWN, []),
        }
        if arguments.compiled:
            sides["compiled"] = (_OWN, ["trainer.compile=true"])
        compare(arguments.model, sides, arguments.steps, arguments.json)
        return 0
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
        if arguments.against:
            take_turns(prepare(run, world), sys.stdin, arguments.warmup)
            return 0
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


def make_speech(directory: Path) -> None:
    """Write FLAC files of voices in noise, labels, texts and the index."""
    for number, waveform in enumerate(noisy_voices(16, 12.0, _SAMPLE_RATE, 0.002)):
        file = directory / str(number % 2) / f"{number}.flac"
        file.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(file, _SAMPLE_RATE, 1, format="flac") as writer:
            writer.write(waveform[None])
    entries = scan(directory, ("flac",), num_workers=1).entries
    texts = [replace(e, extra={"text": f"what {Path(e.file_path).stem} says"}) for e in entries]
    write_index(directory, texts)


def earlier_stages(model: str, common: list[str], folder: Path, world: World) -> list[str]:
    """Make untrained stages 1 and 2 for a stage-3 model; return the overrides that name them."""
    if not model.endswith("_finetune"):
        return []
    found = []
    for key, stage in zip(("cleaner", "vocoder"), first_stages(model), strict=True):
        own = [f"model={stage}", f"trainer.output_dir={folder / stage}"]
        own += [o for o in common if not o.startswith(_OF_OTHERS[key])]
        prepare(compose_run(own), world).save()
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
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "ranks": trainer.world.size,
        "threads": torch.get_num_threads(),
        "batch_size": trainer.config.batch_size,
        "amp": trainer.config.amp,
        "steps_per_second": steps / total,
        "waits_a_step": waits,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else peak_bytes(),
        "share": {
            "data": data / total,
            "forward": forward / total,
            "backward": (gradients - data - forward) / total,
            "update": (total - gradients) / total,
        },
    }


def compare(
    model: str, sides: dict[str, tuple[Path, list[str]]], steps: int, file: Path | None
) -> None:
    """Print what a step costs in checkouts of the project, each with its own overrides."""
    running = {}
    for name, (tree, words) in sides.items():
        command = [sys.executable, __file__, *sys.argv[1:], *words]
        running[name] = subprocess.Popen(
            command,
            env={**os.environ, "MEASURED_TREE": str(tree.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def asked(name: str, what: str) -> Any:
        process = running[name]
        print(what, file=process.stdin, flush=True)
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise UserError(f"{name}: ended with status {process.wait()} before it answered")

    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(steps):
        for name in sides:
            taken[name].append(asked(name, "step"))
    figures: dict[str, dict[str, Any]] = {
        name: {
            **{clock: statistics.median(step[clock] for step in own) for clock in own[0]},
            "share": asked(name, "profile"),
        }
        for name, own in taken.items()
    }
    for name, process in running.items():
        process.communicate()
        own, before = figures[name], figures["before"]
        times = "  ".join(
            f"{clock} {own[clock]:.3f} s, × {before[clock] / own[clock]:.2f}"
            for clock in ("clock", "processor")
        )
        shares = "  ".join(f"{kind} {share:.0%}" for kind, share in own["share"].items())
        print(f"{model} {name}: {times}  {shares}", flush=True)
    if file:
        file.write_text(json.dumps({"model": model, **figures}, indent=2))


def take_turns(trainer: Trainer, requests: Iterator[str], warmup: int) -> None:
    """Answer each line with JSON: `step` with its seconds by two clocks, `profile` with shares.

    The data is loaded before.
    """
    trainer.batches = itertools.cycle(list(itertools.islice(trainer.batches, 2)))
    for _ in range(warmup):
        trainer.step()
    for request in requests:
        if request.strip() == "step":
            clock, processor = time.perf_counter(), time.process_time()
            trainer.step()
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            print(json.dumps({"clock": clock, "processor": processor}), flush=True)
        else:
            print(json.dumps(kinds_of_operations(trainer)), flush=True)


_KINDS = {
    "convolutions": r"conv",
    "matrix products, attention, LSTM": r"mm$|matmul|linear|attention|lstm|mkldnn_rnn",
    "Fourier transforms": r"fft",
    "copies, zeros, concatenations": r"copy_|zero_|fill_|cat$|clone|im2col|col2im|pad|index_put",
    "optimiser": r"_fused|foreach",
    "norms": r"norm",
}


def kinds_of_operations(trainer: Trainer) -> dict[str, float]:
    """Return the shares of kinds of operations in the time of all, of two steps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(2):
            trainer.step()
    kinds: Counter[str] = Counter()
    for event in watched.key_averages():
        if event.key.startswith(("aten::", "mkldnn", "graph", "cpp_")):
            kind = next((k for k, own in _KINDS.items() if re.search(own, event.key)), "all else")
            kinds[kind] += event.self_cpu_time_total
    return {kind: time / kinds.total() for kind, time in kinds.most_common()}


def watch_memory(trainer: Trainer, steps: int) -> dict[str, Any]:
    """Take steps, and read the resident memory of this process now and then.

    Returns:
        Steps and bytes of each reading, and the slope of a line through those after the first
        quarter, in bytes a step.
    """
    points = []
    for step in range(1, steps + 1):
        trainer.step()
        if step % max(1, steps // 100) == 0:
            trainer.read()
            points.append((step, resident_bytes(os.getpid())))
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


def count_launches(run: Run, world: World) -> dict[str, Any]:
    """Count what the passes of a step have a GPU start, forward and backward.

    Returns:
        The kernels that the compiler fuses, the operations that it leaves to libraries, and those
        that are not compiled, by name; `launches` is the number of all.
    """
    from launches import planned_for_a_gpu, started

    with planned_for_a_gpu() as planned:
        trainer = prepare(run, world)
        trainer.accumulate()
        for optimizer in trainer.state.optimizers.values():
            optimizer.zero_grad(set_to_none=True)  # as each step does: else gradients are added
        before = planned.total()
        plain = started(trainer.accumulate)
    assert planned.total() == before, "a step with the shapes of the first was compiled anew"
    return {
        "fused": planned.pop("fused", 0),
        "libraries": dict(planned.most_common()),
        "plain": dict(plain.most_common()),
        "launches": before + plain.total(),
    }


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
        for name, value in shown.items():
            print(f"{model}: {name} {value if isinstance(value, dict) else f'{value:,.0f}'}")
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
