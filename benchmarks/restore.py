"""Measure how fast a chain restores files: speed against real time, memory, time of each part.

    python benchmarks/restore.py --model demo_wavefit_finetune
    python benchmarks/restore.py --ckpt-dir output/demo/stage3 --files 20
    torchrun --standalone --nproc_per_node 8 benchmarks/restore.py --amp bf16 --batch-size 8 \
        --model miipher2_wavefit_finetune model.encoder.source=/models/gemma-4-E2B-it

    python benchmarks/restore.py --model sidon_vocoder_finetune --amp bf16 --workers 15 \
        --files 1200 --output-format flac model.encoder.source=/models/w2v-bert-2.0

    python benchmarks/restore.py --stand-in --json
    python benchmarks/restore.py --stand-in --json --output-format wav

Audio is generated, written to FLAC files at 48 kHz and read from them; outputs are written as the
command writes them. With --model, weights are random, and overrides of `src/train.py` may follow.
Reading, the model and writing run in parallel, so the slowest of the three decides the speed.

With --workers, a directory of files of 16 kHz and up to a minute is restored as
`src/inference.py` does it, with worker processes: once to warm up, and once for the figures. They
say which share of the time the device was at work, and the processor of the process that feeds it
and of a worker; the largest share limits the speed.

--stand-in measures all that is not the model's work (stand_in.py): an hour of 120 FLAC files of
16 kHz, or of WAV files with --output-format wav, becomes as many at 48 kHz. CPU time, in ms a
second of audio: `feeder` of the process that has the device, `device` of what a GPU would do in
it, `cpu` of all processes together.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "--stand-in" in sys.argv:  # so the aim is stated; numpy asks when it is imported
    os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import stand_in
from families import first_stages
from material import noisy_voices
from processes import peak_bytes

from open_miipher.audio.io import AudioWriter, probe
from open_miipher.base.errors import exit_on_user_error
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.config import compose_plain
from open_miipher.distributed import World, says, start
from open_miipher.encoders import ENCODERS
from open_miipher.restoration import Chain, FileSink, Job, RestoreOptions, Restorer, Source
from open_miipher.restoration.trial import CPU_BATCH, try_batches
from open_miipher.vocoders import VOCODERS

_INPUT_RATE = 48000
_STANDARD_OUTPUT = Path("-")


def main() -> int:
    """Measure one chain."""
    arguments = parse_arguments()
    if arguments.stand_in:
        return measure_stand_in(arguments)
    world = start(arguments.device)
    if arguments.ckpt_dir:
        chain = Chain.from_checkpoint(arguments.ckpt_dir, world.device, arguments.amp)
    else:
        chain = random_chain(arguments.model, arguments.overrides, world, arguments.amp)
    options = RestoreOptions(
        chunk_seconds=arguments.chunk_seconds, overlap_seconds=arguments.overlap_seconds
    )
    restorer = Restorer(chain, options, arguments.batch_size or CPU_BATCH)
    if arguments.workers is not None:
        return measure_directory(restorer, arguments)
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_noisy_files(Path(folder), arguments.files or 4, arguments.seconds or 60)
        figures = measure(restorer, inputs, arguments.output_format, world)
    if world.is_main:
        figures |= {
            "model": arguments.ckpt_dir or arguments.model,
            "amp": arguments.amp,
            "batch_size": restorer.batch_size,
            "chunk_seconds": arguments.chunk_seconds,
        }
        report(figures)
        write(figures, arguments.json)
    world.close()
    return 0


def write(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures as JSON, or write them to a file, if that is asked for."""
    if path == _STANDARD_OUTPUT:
        print(json.dumps(figures))
    elif path:
        path.write_text(json.dumps(figures, indent=2))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    defaults = RestoreOptions()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a name under config/model; weights are random")
    parser.add_argument("--ckpt-dir", help="a stage-3 checkpoint, in place of --model")
    parser.add_argument("--files", type=int, help="files a rank (default: 4)")
    parser.add_argument(
        "--seconds", type=float, help="length of each (default: 60; with --workers 30, by the mean)"
    )
    parser.add_argument("--stand-in", action="store_true", help="a model that costs nothing")
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="PNG",
        help="with --stand-in: draw the memory of a run over 20,000 files instead (--files)",
    )
    parser.add_argument(
        "--lengths", action="store_true", help="with --stand-in: files of a minute to ten hours"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="restore a directory, with so many processes beside the one of the model (with "
        "--stand-in default: one a core)",
    )
    parser.add_argument(
        "--output-format", choices=["wav", "flac"], help="default: wav; flac with --stand-in"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="chunks at once (default: 4; with --workers on a GPU, what a trial finds)",
    )
    parser.add_argument("--chunk-seconds", type=float, default=defaults.chunk_seconds)
    parser.add_argument("--overlap-seconds", type=float, default=defaults.overlap_seconds)
    parser.add_argument("--amp", choices=["no", "bf16"], default="no")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU if there is one")
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=_STANDARD_OUTPUT,
        metavar="FILE",
        help="write the figures here too; without a FILE, print them, an object a line",
    )
    parser.add_argument("overrides", nargs="*", help="of the configuration, with --model")
    arguments = parser.parse_intermixed_args()
    if [bool(arguments.model), bool(arguments.ckpt_dir), arguments.stand_in].count(True) != 1:
        parser.error("give --model, --ckpt-dir or --stand-in")
    if (arguments.workers or 0) < 0 or (arguments.files is not None and arguments.files < 1):
        parser.error("--workers must be 0 or more, and --files 1 or more")
    if arguments.output_format is None:
        arguments.output_format = "flac" if arguments.stand_in else "wav"
    return arguments


def measure_stand_in(arguments: argparse.Namespace) -> int:
    """Measure what is around a model that costs nothing, three times; the last line is the median.

    A run that does not count comes first, and starts the workers.
    """
    cores = len(os.sched_getaffinity(0))
    num_workers = cores if arguments.workers is None else arguments.workers
    if arguments.memory is not None:
        num_files = arguments.files or 20000
        print(json.dumps(stand_in.watch_memory(num_files, num_workers, arguments.memory)))
        return 0
    if arguments.lengths:
        for figures in stand_in.measure_lengths(num_workers):
            print(json.dumps(figures), flush=True)
        return 0
    common = {
        "format": arguments.output_format,
        "workers": num_workers,
        "cores": cores,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    torch.set_num_threads(1)
    restorer = Restorer(stand_in.StandIn(), RestoreOptions(trust=False), batch_size=4)
    sizes = (arguments.output_format, 120, 1.0, num_workers)
    found = []
    for figures in stand_in.measure(restorer, *sizes, repeats=3):
        found.append(figures)
        print(json.dumps({**figures, **common}), flush=True)
    print(json.dumps({**stand_in.median(found), **common}))
    return 0


def measure_directory(restorer: Restorer, arguments: argparse.Namespace) -> int:
    """Measure a run over a directory, as `src/inference.py` does it."""
    model, num_files = restorer.model, arguments.files or 120
    assert isinstance(model, Chain)
    if arguments.batch_size is None and model.device.type == "cuda":
        restorer.batch_size = try_batches(model, restorer.options.grid(model)).batch_size
    hours = num_files * (arguments.seconds or 30) / 3600
    sizes = (arguments.output_format, num_files, hours, arguments.workers)
    [figures] = stand_in.measure(restorer, *sizes, repeats=1, device=model.device)
    shares = {name: value for name, value in figures.items() if name.endswith("_share")}
    figures |= {
        "model": arguments.ckpt_dir or arguments.model,
        "amp": arguments.amp,
        "batch_size": restorer.batch_size,
        "workers": arguments.workers,
        "files": num_files,
        "limited_by": max(shares, key=lambda name: shares[name]).removesuffix("_share"),
    }
    said = ", ".join(f"{name} {value:.2f}" for name, value in shares.items())
    print(f"{num_files} files, {figures['times_real_time']:.1f} times real time; {said}")
    write(figures, arguments.json)
    return 0


def random_chain(model: str, overrides: list[str], world: World, amp: Any) -> Chain:
    """Build the untrained chain of the three stages that belong to a model."""
    cleaner_model, vocoder_model = first_stages(model)
    cleaner_config = compose_plain([f"model={cleaner_model}", *overrides])["model"]
    vocoder_config = compose_plain([f"model={vocoder_model}", *overrides])["model"]
    torch.manual_seed(0)
    encoder = build(ENCODERS, cleaner_config["encoder"], key="model.encoder")
    cleaner = build(CLEANERS, cleaner_config["cleaner"], encoder, key="model.cleaner")
    cleaner.merge()
    rate = encoder.sample_rate / encoder.hop_length
    vocoder = build(VOCODERS, vocoder_config["vocoder"], encoder.width, rate, key="model.vocoder")
    return Chain(cleaner, vocoder, world.device, amp)


def make_noisy_files(folder: Path, num_files: int, seconds: float) -> list[Path]:
    """Write FLAC files of voices in noise."""
    paths = [folder / f"{number}.flac" for number in range(num_files)]
    voices = noisy_voices(num_files, seconds, _INPUT_RATE, 0.01)
    for path, waveform in zip(paths, voices, strict=True):
        with AudioWriter(path, _INPUT_RATE, 1, format="flac") as writer:
            writer.write(waveform[None])
    return paths


def measure(
    restorer: Restorer, inputs: list[Path], output_format: str, world: World
) -> dict[str, Any]:
    """Restore the first file to warm up, then all files for the figures.

    Returns:
        Hours of audio an hour (all ranks), peak memory in bytes, and seconds of work per second of
        audio: read (decode, resample, cut), measure (statistics of whole files, where the encoder
        normalises by them), encoder, cleaner (without its encoder), vocoder, model_other (batches,
        copies), level, write (join, resample, encode).
    """

    def jobs(paths: list[Path]) -> Iterator[Job]:
        for path in paths:
            target = path.with_name(f"restored-{path.stem}.{output_format}")
            sink = FileSink(target, restorer.model.output_rate, output_format, "PCM_16")
            yield restorer.job(Source.from_file(path, probe(path)), sink)

    for _ in restorer.restore_jobs(jobs(inputs[:1])):
        pass
    clock = ModuleClock(world.device)
    assert isinstance(restorer.model, Chain)
    restorer.model._graphs = None  # whose parts cannot be timed
    clock.time("encoder", restorer.model.cleaner.encoder)
    clock.time("cleaner", restorer.model.cleaner)
    vocode = restorer.model.vocoder.generate
    restorer.model.vocoder.generate = clock.timed("vocoder", vocode)  # type: ignore[method-assign]

    world.barrier()
    began = time.perf_counter()
    seconds: dict[str, float] = defaultdict(float)
    audio = 0.0
    for job in restorer.restore_jobs(jobs(inputs), alone=len(inputs) == 1):
        audio += job.source.num_frames / job.source.sample_rate
        for stage, value in job.seconds.items():
            seconds[stage] += value
    world.barrier()
    wall = time.perf_counter() - began

    model = seconds.pop("model")
    clock.seconds["cleaner"] -= clock.seconds["encoder"]
    seconds |= {**clock.seconds, "model_other": model - sum(clock.seconds.values())}
    cuda = world.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "ranks": world.size,
        "threads": torch.get_num_threads(),
        "times_real_time": sum(world.gather(audio)) / wall,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_resident_bytes": peak_bytes(),
        "seconds_per_audio_second": {stage: value / audio for stage, value in seconds.items()},
    }


class ModuleClock:
    """Adds up the time spent in modules and functions; waits for the GPU before and after each."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    def time(self, name: str, module: nn.Module) -> None:
        """Time a module's forward from now on."""
        module.forward = self.timed(name, module.forward)

    def timed(self, name: str, function: Any) -> Any:
        """Return the function, timed."""

        def call(*arguments: Any) -> Any:
            began = self._now()
            result = function(*arguments)
            self.seconds[name] += self._now() - began
            return result

        return call

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def report(figures: dict[str, Any]) -> None:
    """Print the figures."""
    stages = figures["seconds_per_audio_second"]
    memory = figures["peak_gpu_bytes"] or figures["peak_resident_bytes"]
    print(
        f"{figures['model']} on {figures['ranks']} × {figures['device']} "
        f"({figures['threads']} threads), batches of {figures['batch_size']} chunks of "
        f"{figures['chunk_seconds']:g} s, amp {figures['amp']}\n"
        f"  {figures['times_real_time']:.1f} times as fast as real time, "
        f"peak memory {memory / 2**30:.2f} GiB\n"
        "  ms of work a second of audio: "
        + "  ".join(f"{stage} {1000 * value:.3f}" for stage, value in stages.items())
    )


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main, says)())
