"""Measure how fast the loader makes pairs: seconds of audio for each second of a core.

    taskset -c 0 python benchmarks/data.py --preset four
    taskset -c 0 python benchmarks/data.py --preset paper --data-dir SPEECH --noise-dir NOISE
    taskset -c 0 python benchmarks/data.py --preset shards

`four` is noise, reverb, clipping and low-pass on every crop; `paper` is config/data/default.yaml.
`shards` makes shards in a temporary folder (250 MB, which stay in memory): pairs of 20 s at 48 kHz,
int16 arrays. It reads them in random order, and again in order with webdataset's own reader;
--crop-seconds says how much of each pair is used.
Without directories, some minutes of FLAC at 24 kHz are made in a temporary folder: speech-like
bursts, noise, and impulse responses of 0.2 to 0.5 s of decay. Noise and responses are decoded
before the measurement, as at the start of a run (data/decoded.py), into the temporary folder;
--drawn leaves that out, as a run does with more than 6 hours of them. --wav makes the speech as WAV
of 16 bits, which takes no decoding. The padding of short files
does not count as audio. CPU time is that of this process and of its workers, user and system.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from material import make_folder
from processes import cpu_seconds

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.registry import from_mapping
from open_miipher.config import compose_plain
from open_miipher.data import (
    DataConfig,
    Dataset,
    Preprocessed,
    PreprocessedConfig,
    TrainSource,
    build_train_data,
    decoded,
    train_batches,
)
from open_miipher.degradation import Context, DegradationConfig, Trace, build_degradation
from open_miipher.degradation.noise import coloured_noise
from open_miipher.shards import Sample, ShardWriter, encode_waveform

_RATE = 24000
_MADE = {"speech": (12, (60.0, 60.0)), "noise": (8, (60.0, 60.0)), "rir": (64, (0.2, 0.5))}
"""Files that are made where none are given, and the seconds of each or of its decay."""

_WARM_UP_BATCHES = 4
_MADE_SHARDS, _MADE_PAIRS, _PAIR_SECONDS = 2, 32, 20


@dataclass
class Figures:
    """The figures of one run of the loader."""

    num_workers: int
    audio_seconds: float
    cpu_seconds: float
    wall_seconds: float

    @property
    def per_core_second(self) -> float:
        """Seconds of audio made by a core in a second."""
        return self.audio_seconds / self.cpu_seconds


@exit_on_user_error
def main() -> int:
    """Measure and print."""
    arguments = parse_arguments()
    if arguments.preset == "shards":
        shards(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        if arguments.drawn:
            decoded._MOST_FILES = 0
        sources = TrainSource(*(find_or_make(arguments, kind, Path(folder)) for kind in _MADE))
        config = preset(arguments, sources)
        dataset = build_train_data(config, seed=0)
        stages = time_stages(config)
        runs = [
            measure(dataset, arguments.num_crops, arguments.batch_size, num_workers)
            for num_workers in arguments.num_workers
        ]
    report(config, stages, runs)
    if arguments.json:
        arguments.json.write_text(
            json.dumps(as_json(arguments.preset, config, stages, runs), indent=2)
        )
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("four", "paper", "shards"), default="four")
    parser.add_argument("--data-dir", help="clean speech with its index; made if not given")
    parser.add_argument("--noise-dir", help="noise with its index; made if not given")
    parser.add_argument("--rir-dir", help="impulse responses with their index; made if not given")
    parser.add_argument("--crop-seconds", type=float, default=10.0)
    parser.add_argument(
        "--drawn", action="store_true", help="decode noise and responses as they are drawn"
    )
    parser.add_argument("--wav", action="store_true", help="make the speech as WAV, not FLAC")
    parser.add_argument("--num-crops", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument(
        "--num-workers", type=int, nargs="+", default=[0, 1], help="each is measured; default: 0 1"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    if min(arguments.num_crops, arguments.batch_size) < 1 or min(arguments.num_workers) < 0:
        raise UserError("--num-crops and --batch-size must be at least 1, --num-workers at least 0")
    return arguments


def find_or_make(arguments: argparse.Namespace, kind: str, folder: Path) -> list[str]:
    """Return the directory given for speech, noise or impulse responses, or make one."""
    given = {"speech": arguments.data_dir, "noise": arguments.noise_dir, "rir": arguments.rir_dir}
    if given[kind]:
        return [given[kind]]
    count, seconds = _MADE[kind]
    file_format = "wav" if arguments.wav and kind == "speech" else "flac"
    return [make_folder(folder / kind, kind, _RATE, count, seconds, file_format)]


def preset(arguments: argparse.Namespace, sources: TrainSource) -> DataConfig:
    """Return the data configuration to measure."""
    plain = compose_plain(["model=miipher2_feature_cleaner"])["data"]
    config = from_mapping(DataConfig, plain, "data")
    degradation = config.degradation
    if arguments.preset == "four":
        labels = ("reverb", "noise", "clipping", "low_pass")
        always = {label: {**degradation.stages[label], "probability": 1.0} for label in labels}
        degradation = DegradationConfig(always, max_stages=len(always))
    return replace(
        config, train=sources, crop_seconds=arguments.crop_seconds, degradation=degradation
    )


def measure(dataset: Dataset, num_crops: int, batch_size: int, num_workers: int) -> Figures:
    """Load crops, after a few batches to warm up."""
    batches = train_batches(dataset, 0, batch_size, num_workers=num_workers)
    for _ in islice(batches, _WARM_UP_BATCHES * max(1, num_workers)):
        pass
    pids = [os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]
    cpu, wall = sum(map(cpu_seconds, pids)), time.perf_counter()
    num_samples = 0
    for batch in islice(batches, -(-num_crops // batch_size)):
        num_samples += int(batch.lengths.sum())
    cpu, wall = sum(map(cpu_seconds, pids)) - cpu, time.perf_counter() - wall
    return Figures(num_workers, num_samples / dataset.sample_rate, cpu, wall)


def time_stages(config: DataConfig) -> dict[str, float]:
    """Return milliseconds of CPU that each stage takes for 10 s of audio, when it is applied.

    Noise and rooms are generated here; recordings are decoded before, or take that time besides.
    """
    waveform = coloured_noise(
        np.random.default_rng(0), 10 * config.sample_rate, config.sample_rate, 1.0
    )
    context, taken = Context(config.sample_rate), {}
    for label, spec in config.degradation.stages.items():
        stages = {label: {**spec, "probability": 1.0}}
        alone = replace(config.degradation, stages=stages)
        chain, rng = build_degradation(alone, context), np.random.default_rng(0)
        chain(waveform, rng, Trace(waveform))
        start, repeats = time.process_time(), 20
        for _ in range(repeats):
            chain(waveform, rng, Trace(waveform))
        taken[label] = 1000 * (time.process_time() - start) / repeats
    return taken


def shards(arguments: argparse.Namespace) -> None:
    """Measure the reading of shards, ours and webdataset's, and print it."""
    with tempfile.TemporaryDirectory() as folder:
        urls = [str(make_shard(Path(folder) / f"{k:03d}.tar", k)) for k in range(_MADE_SHARDS)]
        crop_seconds = arguments.crop_seconds
        source = Preprocessed(PreprocessedConfig("preprocessed", 48000, crop_seconds, urls))
        dataset = source.train(seed=0)
        num_crops, num_workers = arguments.num_crops, arguments.num_workers
        samples = map(dataset.__getitem__, count())
        ours = ((as_floats(sample.clean), as_floats(sample.damaged)) for sample in samples)
        runs = {
            "webdataset, pairs in order": measure_pairs(pairs_of_webdataset(urls), num_crops),
            "ours, pairs at random": measure_pairs(ours, num_crops),
        }
        for n in num_workers:
            name = f"ours, batches, {n} workers"
            runs[name] = measure(dataset, num_crops, arguments.batch_size, n)
    print(f"{crop_seconds:g} s of pairs of {_PAIR_SECONDS} s at 48000 Hz, int16 arrays\n")
    print("| reader | audio s per core-second | audio s per second | audio s | CPU s |")
    print("|---|---|---|---|---|")
    for name, run in runs.items():
        print(f"| {name} {speeds(run)}")


def make_shard(path: Path, seed: int) -> Path:
    """Write pairs of noise, then read the file, so that it stays in memory."""
    rng, num_samples = np.random.default_rng(seed), _PAIR_SECONDS * 48000
    with ShardWriter(path) as writer:
        for number in range(_MADE_PAIRS):
            noise = rng.uniform(-0.5, 0.5, num_samples).astype(np.float32)
            audio = encode_waveform(noise, 48000, "npy")
            members = {"input_wav.npy": audio, "noisy_input_wav.npy": audio, "sr.index": b"48000"}
            writer.add(Sample(f"{seed:03d}-{number:03d}", members))
    path.read_bytes()
    return path


def pairs_of_webdataset(urls: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read pairs with webdataset, in order, its arrays turned into floats as ours are."""
    import webdataset

    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode().repeat():
        yield as_floats(sample["input_wav.npy"]), as_floats(sample["noisy_input_wav.npy"])


def as_floats(waveform: np.ndarray) -> np.ndarray:
    """Convert int16 to floats with full scale 1."""
    return waveform * np.float32(1 / 32768)


def measure_pairs(pairs: Iterator[tuple[np.ndarray, np.ndarray]], num_pairs: int) -> Figures:
    """Read pairs one by one in this process, after a few to warm up."""
    for _ in islice(pairs, 8):
        pass
    cpu, wall = cpu_seconds(os.getpid()), time.perf_counter()
    num_samples = sum(len(clean) for clean, _ in islice(pairs, num_pairs))
    cpu, wall = cpu_seconds(os.getpid()) - cpu, time.perf_counter() - wall
    return Figures(0, num_samples / 48000, cpu, wall)


def report(config: DataConfig, stages: dict[str, float], runs: list[Figures]) -> None:
    """Print the tables."""
    most = config.degradation.max_stages
    print(f"{config.crop_seconds:g} s crops at {config.sample_rate} Hz, at most {most} stages each")
    print("\n| stage | probability | ms for 10 s, when applied |\n|---|---|---|")
    for label, spec in config.degradation.stages.items():
        print(f"| {label} | {spec.get('probability', 1):g} | {stages[label]:.1f} |")
    print("\n| workers | audio s per core-second | audio s per second | audio s | CPU s |")
    print("|---|---|---|---|---|")
    for run in runs:
        print(f"| {run.num_workers or '0 (in-process)'} {speeds(run)}")


def speeds(run: Figures) -> str:
    """Return the end of a table's row."""
    speed = f"{run.per_core_second:.0f} | {run.audio_seconds / run.wall_seconds:.0f}"
    return f"| {speed} | {run.audio_seconds:.0f} | {run.cpu_seconds:.2f} |"


def as_json(
    name: str, config: DataConfig, stages: dict[str, float], runs: list[Figures]
) -> dict[str, Any]:
    """Return all figures as plain data."""
    probabilities = {
        label: spec.get("probability", 1) for label, spec in config.degradation.stages.items()
    }
    return {
        "preset": name,
        "crop_seconds": config.crop_seconds,
        "max_stages": config.degradation.max_stages,
        "probabilities": probabilities,
        "stage_ms_for_10_s": stages,
        "runs": [
            {**vars(run), "audio_seconds_per_core_second": run.per_core_second} for run in runs
        ],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s) used",
    }


if __name__ == "__main__":
    sys.exit(main())
