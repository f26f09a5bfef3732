"""Judge spoken digits that were generated from nothing, at several checkpoints of several runs.

    python benchmarks/digits.py --runs output/digits_sashimi output/digits_wavenet --steps 1000 2000
        --classifier output/digits_classifier --output-dir output/digits [--sampler ddpm]

For each run and step: src/generate.py makes 256 clips and src/evaluate.py judges them, both in
OUT/RUN/STEP, unless they are there; then the table, and a page of 20 spectrograms of each run's
last step, OUT/RUN.png. A clip's number is its title: the first 20 are drawn, none is chosen.
--sampler fast takes every fourth level of the noise of the small models' schedule: with the six of
a vocoder, noise is left.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.evaluation.generation import TEST
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.spectrograms import Panel, save_spectrograms
from open_miipher.evaluation.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("fid", "is", "mis", "am", "ndb")


def every_fourth_level() -> str:
    """Return the variances of the steps between the levels 1, 5 … 49 of T=50, beta_T=0.15."""
    betas = torch.linspace(1e-4, 0.15, 50, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)[1::4]
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    levels = (1 - kept / before).tolist()
    levels[-1] *= 0.999  # at the very end of the trained range, rounding may lead beyond it
    return ",".join(f"{level:.6f}" for level in levels)


def command(script: str, *words: str | Path) -> None:
    """Run a command that users have."""
    subprocess.run([sys.executable, ROOT / "src" / script, *words], check=True)


def judged(run: Path, step: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the scores of clips from one checkpoint."""
    folder = arguments.output_dir / run.name / str(step)
    clips, scores = folder / "clips", folder / "scores"
    number = str(arguments.n_samples)
    of_run = ("--ckpt-dir", run, "--ckpt", str(step), "--output-dir", clips)
    sampler = ["--sampler", arguments.sampler]
    if arguments.sampler == "fast":
        sampler += ["--fast-levels", every_fourth_level()]
    command("generate.py", *of_run, "--n-samples", number, *sampler)
    if not (scores / "summary.json").exists():
        of_clips = ("--restored-dir", clips, "--output-dir", scores, "--num-workers", "1")
        command(
            "evaluate.py", *of_clips, "--classifier", arguments.classifier, "--measures", "level"
        )
    summary: dict[str, dict[str, float]] = json.loads((scores / "summary.json").read_text())
    return summary


def draw_page(clips: Path, picture: Path) -> None:
    """Draw the first 20 clips."""
    panels = [Panel(file.stem, *read_mono(file)) for file in sorted(clips.glob("*.wav"))[:20]]
    save_spectrograms(picture, [panels[n : n + 4] for n in range(0, 20, 4)])


def main() -> None:
    """Generate, judge, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, nargs="+", required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--sampler", choices=["ddpm", "fast"], default="fast")
    parser.add_argument("--n-samples", type=int, default=256)
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        for step in arguments.steps:
            summary = judged(run, step, arguments)
            cells = (
                f"{summary[name]['mean']:.2f} ± "
                f"{(summary[name]['high'] - summary[name]['low']) / 2:.2f}"
                for name in NAMES
            )
            rows.append([run.name, str(step), *cells])
        last = arguments.output_dir / run.name / str(step) / "clips"
        draw_page(last, arguments.output_dir / f"{run.name}.png")
    held_out = (f"{summary[TEST + name]['mean']:.2f}" for name in NAMES)
    rows.append(["held-out clips", "", *held_out])
    print(format_table(["run", "step", *NAMES], rows))


if __name__ == "__main__":
    main()
