"""Draw how restoring's speed hangs on batch size, chunk length, worker processes and file length.

    python benchmarks/plots.py OUT_DIR [--ckpt-dir RUN] [--device cuda]

Runs benchmarks/restore.py once for each point, one after the other, and writes speed.json and
speed.png there. Batches, chunks and lengths are of the model, worker processes of the stand-in.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

SCRIPT = Path(__file__).resolve().parent / "restore.py"
BATCHES, CHUNKS = (1, 2, 4, 8), (5, 10, 20, 30)
WORKERS, LENGTHS = (0, 1, 2, 4), (10, 60, 300, 900)


def measured(*words: object) -> dict[str, Any]:
    """Return the last line of what one run prints."""
    command = [sys.executable, SCRIPT, "--json", "-", *map(str, words)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_dir", type=Path, metavar="OUT_DIR")
    parser.add_argument("--ckpt-dir", default=SCRIPT.parents[1] / "pretrained/default")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = ("--ckpt-dir", arguments.ckpt_dir, "--device", arguments.device)
    panels = {
        "chunks in a batch": {n: measured(*model, "--batch-size", n) for n in BATCHES},
        "seconds of a chunk": {s: measured(*model, "--chunk-seconds", s) for s in CHUNKS},
        "worker processes (stand-in model)": {
            n: measured("--stand-in", "--workers", n) for n in WORKERS
        },
        "seconds of a file": {s: measured(*model, "--files", 1, "--seconds", s) for s in LENGTHS},
    }
    speeds = {
        name: {str(x): figures["times_real_time"] for x, figures in points.items()}
        for name, points in panels.items()
    }
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "speed.json").write_text(json.dumps(speeds, indent=2) + "\n")
    draw(speeds, arguments.output_dir / "speed.png")


def draw(speeds: dict[str, dict[str, float]], path: Path) -> None:
    """Draw a panel for each of the four; for lengths, the time that a file takes."""
    figure, axes = plt.subplots(1, len(speeds), figsize=(16, 4), layout="constrained")
    for axis, (name, points) in zip(axes, speeds.items(), strict=True):
        places = [float(x) for x in points]
        if name == "seconds of a file":
            axis.loglog(places, [x / points[k] for x, k in zip(places, points, strict=True)], "o-")
            axis.set_ylabel("seconds that it takes")
        else:
            axis.plot(places, list(points.values()), "o-")
            axis.set_ylabel("times real time")
            axis.set_ylim(bottom=0)
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
