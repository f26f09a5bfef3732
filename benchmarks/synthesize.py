"""Measure how long devices are idle while texts remain, with a stand-in backend of known cost.

    python benchmarks/synthesize.py
    python benchmarks/synthesize.py --texts 5000 --real-time 1000 --workers 2

The stand-in takes as long for a batch as a device that speaks so many times as fast as real time,
and longer for texts of unlike lengths, since a batch lasts as long as its longest text. All else is
as in `src/synthesize.py`: judging, resampling, FLAC files, tables, the ledger.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import exit_on_user_error
from open_miipher.base.rows import read_rows
from open_miipher.config import compose_synthesis
from open_miipher.corpus.pool import Pool, worker_place
from open_miipher.corpus.run import run
from open_miipher.corpus.synthesising.task import Synthesise
from open_miipher.corpus.synthesising.texts import Texts
from open_miipher.distributed import World
from open_miipher.synthesis.judging import expected_seconds

RATE = 24000


class StandIn:
    """Speaks noise of the expected length, and notes when it begins and ends."""

    sample_rate, fingerprint = RATE, "stand-in"

    def __init__(self, folder: Path, real_time: float) -> None:
        self._real_time = real_time
        self._log = (folder / f"worker-{worker_place()}.jsonl").open("a", buffering=1)
        self._noise = 0.1 * np.random.default_rng(0).standard_normal(RATE * 60, np.float32)

    def speak(self, texts: list[str], seeds: list[int]) -> list[np.ndarray]:
        """Take the time that a device would take."""
        began = time.monotonic()
        seconds = [expected_seconds(text, 15.0) for text in texts]
        time.sleep(max(seconds) * len(texts) / self._real_time)
        row = {"began": began, "ended": time.monotonic(), "seconds": sum(seconds)}
        self._log.write(json.dumps(row) + "\n")
        return [self._noise[: round(RATE * each)] for each in seconds]


class NoCodec:
    """Two zeros a frame: tokenising is measured elsewhere."""

    sample_rate, hop, fingerprint = RATE, 320, "none"

    def encode(self, waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return no tokens in particular."""
        counts = (-(-int(length) // self.hop) for length in lengths)
        return [torch.zeros(count, 2, dtype=torch.int16) for count in counts]


class Load:
    """Gives both to a worker."""

    def __init__(self, folder: Path, real_time: float) -> None:
        self._folder, self._real_time = folder, real_time

    def __call__(self, device: str) -> tuple[StandIn, NoCodec]:
        """Build them."""
        return StandIn(self._folder, self._real_time), NoCodec()


class Measured(Synthesise):
    """With an identity that needs no model."""

    identity = {"tts": "stand-in"}  # noqa: RUF012 - a fixed one


def main() -> int:
    """Speak, and sum up what the workers noted."""
    arguments = parse_arguments()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = (
            min(60, max(3, round(rng.lognormvariate(2.3, 0.6)))) for _ in range(arguments.texts)
        )
        lines = (
            " ".join(rng.choice(["some", "words", "of", "text"]) for _ in range(n)) for n in lengths
        )
        (folder / "texts.txt").write_text("".join(f"{line}\n" for line in lines))
        config = compose_synthesis(
            [
                f"dataset.name={folder / 'texts.txt'}",
                f"processing.save_dir={folder / 'out'}",
                f"tts.batch_size={arguments.batch_size}",
                f"output.keep_audio={arguments.keep_audio}",
            ]
        )
        texts = Texts(config.dataset, config.tts.characters_per_second)
        devices = ["cpu"] * arguments.workers
        with Pool(arguments.workers, config.processing.time_limit, retries=0) as pool:
            load = Load(folder, arguments.real_time)
            task = Measured(config, texts, pool, devices, load=load)  # type: ignore[arg-type]
            run(task, config.folder, World(0, 1, torch.device("cpu")))
        report(folder, arguments.workers)
    return 0


def report(folder: Path, num_workers: int) -> None:
    """Print the share of time in which a worker's device waited, up to the last text handed out."""
    batches = {n: list(read_rows(folder / f"worker-{n}.jsonl")) for n in range(num_workers)}
    ends = [rows[-1]["began"] for rows in batches.values() if rows]
    totals: dict[str, float] = defaultdict(float)
    for rows in batches.values():
        end = min(ends)  # from then on, some worker found no text left
        counted = [row for row in rows if row["ended"] <= end]
        totals["time"] += end - rows[0]["began"]
        totals["busy"] += sum(row["ended"] - row["began"] for row in counted)
        totals["busy"] += sum(
            end - row["began"] for row in rows if row["began"] < end < row["ended"]
        )
        totals["audio"] += sum(row["seconds"] for row in counted)
    idle = 1 - totals["busy"] / totals["time"]
    print(
        f"{sum(map(len, batches.values()))} batches, device idle {idle:.2%} of "
        f"{totals['time'] / num_workers:.1f} s while texts remained; "
        f"{totals['audio'] / totals['time']:.0f} times as fast as real time a device"
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--texts", type=int, default=2000, metavar="N", help="how many (default: %(default)s)")
    add("--real-time", type=float, default=300.0, metavar="R", help="of a device (default: 300)")
    add("--batch-size", type=int, default=16, metavar="N", help="texts at once (default: 16)")
    add("--workers", type=int, default=1, metavar="N", help="devices (default: 1)")
    add("--keep-audio", default="files", help="files, shards or none (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
