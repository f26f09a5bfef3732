"""Measure how fast preprocessing makes pairs: seconds of audio for each second of a core.

    taskset -c 0 python benchmarks/preprocess.py
    taskset -c 0 python benchmarks/preprocess.py --data-dir SPEECH --noise-dir NOISE --rir-dir ROOMS

It measures all of src/preprocess.py except the start of processes: reading, the chain of
config/data/webdataset_preprocess_48k.yaml, packing, writing shards. Without directories, FLAC at
48 kHz is made in a temporary folder: speech-like bursts of 20 to 30 s, noise, and impulse
responses of 0.1 to 2 s of decay. Output audio is counted; CPU time is user and system.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from material import make_folder

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.config import compose_preprocessing
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.pool import Pool
from open_miipher.corpus.preprocessing.config import Preprocessing
from open_miipher.corpus.preprocessing.task import build_tasks
from open_miipher.data import TrainSource
from open_miipher.data.building import source_degradation
from open_miipher.degradation import DegradationConfig, Trace
from open_miipher.degradation.band import low_cut
from open_miipher.degradation.noise import coloured_noise
from open_miipher.shards import encode_waveform

_MADE = {"speech": (24, (20.0, 30.0)), "noise": (8, (60.0, 60.0)), "rir": (64, (0.1, 2.0))}
"""Files that are made where none are given, and the seconds of each or of its decay."""

_REPEATS = 10


@exit_on_user_error
def main() -> int:
    """Measure and print."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        config = compose(arguments, Path(folder))
        if not arguments.no_stages:
            report_parts(config)
        report_runs([run(config, number) for number in range(arguments.runs)])
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="webdataset_preprocess_48k", help="default: %(default)s")
    add("--data-dir", help="clean speech with its index; made if not given")
    add("--noise-dir", help="noise with its index; made if not given")
    add("--rir-dir", help="impulse responses with their index; made if not given")
    add("--audio-format", choices=("npy", "flac"), default="npy")
    add("--runs", type=int, default=3, help="each with another seed; default: %(default)s")
    add("--no-stages", action="store_true", help="leave out the table of the parts")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        raise UserError("--runs must be at least 1")
    return arguments


def compose(arguments: argparse.Namespace, folder: Path) -> Preprocessing:
    """Return the configuration to measure."""
    given = {"speech": arguments.data_dir, "noise": arguments.noise_dir, "rir": arguments.rir_dir}
    rate = compose_preprocessing([f"data={arguments.config}"]).data.sample_rate
    source = {
        kind: path or make_folder(folder / kind, kind, rate, *_MADE[kind])
        for kind, path in given.items()
    }
    return compose_preprocessing(
        [
            f"data={arguments.config}",
            f"data.train.dir_list=[{source['speech']}]",
            f"data.train.noise_dir_list=[{source['noise']}]",
            f"data.train.rir_dir_list=[{source['rir']}]",
            f"preprocess.output_root={folder / 'shards'}",
            "preprocess.writer_name=benchmark",
            f"preprocess.audio_format={arguments.audio_format}",
        ]
    )


def run(config: Preprocessing, seed: int) -> tuple[float, float, float]:
    """Make the shards of all inputs in this process: seconds of audio, of CPU and of the clock."""
    config.options.seed, config.options.job_id = seed, f"run{seed}"
    ((folder, task),) = build_tasks(config, Pool(1)).items()
    ledger = Ledger(folder)
    ledger.claim(task.identity)
    items = [task.inputs.filled(item) for item in task.plan(ledger).items]
    cpu, wall = time.process_time(), time.perf_counter()
    rows = [task.make(item) for item in items]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    errors = [row["error"] for row in rows if row["error"] is not None]
    if errors:
        raise UserError(errors[0])
    return sum(row["output_seconds"] for row in rows), cpu, wall


def report_parts(config: Preprocessing) -> None:
    """Print what each part takes for 20 s of audio."""
    data, rate = config.data, config.data.sample_rate
    waveform = 0.1 * coloured_noise(np.random.default_rng(0), 20 * rate, rate, 1.0)
    parts: dict[str, tuple[float, Callable[[], Any]]] = {
        "low cut": (1.0, lambda: low_cut(waveform, rate, 50.0)),
    }
    for label, spec in data.degradation.stages.items():
        alone = DegradationConfig({label: {**spec, "probability": 1.0}}, None)
        source = TrainSource([], data.train.noise_dir_list, data.train.rir_dir_list)
        chain = source_degradation(alone, source, "data.train", rate)
        rng = np.random.default_rng(0)
        parts[label] = (
            spec["probability"],
            lambda chain=chain, rng=rng: chain(waveform, rng, Trace(waveform)),  # type: ignore[misc]
        )
    encode = config.options.audio_format
    parts[f"encode two as {encode}"] = (
        1.0,
        lambda: [encode_waveform(waveform, rate, encode) for _ in range(2)],
    )
    print("| part | probability | CPU ms for 20 s, when applied | on average |\n|---|---|---|---|")
    for label, (probability, function) in parts.items():
        function()
        start = time.process_time()
        for _ in range(_REPEATS):
            function()
        taken = 1000 * (time.process_time() - start) / _REPEATS
        print(f"| {label} | {probability:g} | {taken:.1f} | {probability * taken:.1f} |")


def report_runs(runs: list[tuple[float, float, float]]) -> None:
    """Print how fast it was."""
    print("\n| seed | audio s | CPU s | audio s per CPU s | audio s per s |\n|---|---|---|---|---|")
    for seed, (audio, cpu, wall) in enumerate(runs):
        print(f"| {seed} | {audio:.0f} | {cpu:.2f} | {audio / cpu:.0f} | {audio / wall:.0f} |")
    audio, cpu, wall = (sum(column) for column in zip(*runs, strict=True))
    print(f"| all | {audio:.0f} | {cpu:.2f} | **{audio / cpu:.0f}** | {audio / wall:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
