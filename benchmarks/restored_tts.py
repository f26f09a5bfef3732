"""Two steps of jobs/local/restore_for_tts.sh: hold utterances out, and say how it came out.

    python benchmarks/restored_tts.py split --index DIR --held-out 60 --longest 6
        --output-dir OUT/clean
    python benchmarks/restored_tts.py table --output-dir OUT [codec=demo]

`split` links every n-th file of at most so many seconds to OUT/clean/test (texts.txt has their
texts, a line each) and all others to OUT/clean/train; none whose text is longer than all that are
left to learn from. `table` scores each run of OUT/runs, and the codec's own copies
of the held-out clips: the cross-entropy of the clean tokens given the text (the run's best
validation; bits a code), and of speech that was sampled, DNSMOS and the log-mel distance in dB to
the clean clip after dynamic time warping. ± is half of the 95 % interval: of the cross-entropy over
the seeds (Student's t), of the others by 2000 draws of clips and seeds.
"""

import argparse
import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.audio.mel import LogMel, MelConfig
from open_miipher.audio.writing import AudioWriter
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.base.registry import from_mapping
from open_miipher.codec import AudioTokenizer, CodecConfig
from open_miipher.config import compose_plain
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.tables import format_table
from open_miipher.index import read_index, write_index

ROOT = Path(__file__).resolve().parents[1]
ROWS = ("clean", "damaged", "restored")
FRONT_END = MelConfig(win_length=1200, n_mels=80)
DB = 20 / math.log(10)  # decibels of a natural logarithm of a magnitude
FLOOR = math.log(1e-3)


def split(index: Path, held_out: int, longest: float, output_dir: Path) -> None:
    """Link the files of an index to two others."""
    entries = [e for e in read_index(index) if e.extra.get("text", "").strip()]
    size = {n: len(e.extra["text"].encode()) for n, e in enumerate(entries)}
    fit = [n for n, e in enumerate(entries) if e.num_frames <= longest * e.sample_rate]
    fit = [n for n in fit if n != max(fit, key=size.__getitem__)]
    if not 0 < held_out < len(fit):
        raise UserError(
            f"--held-out {held_out}: {index} has {len(fit)} files with a text of at most "
            f"{longest:g} s, one left out"
        )
    chosen = {fit[int((k + 0.5) * len(fit) / held_out)] for k in range(held_out)}
    partial = output_dir.with_name(output_dir.name + ".tmp")
    for part in ("train", "test"):
        own = [e for n, e in enumerate(entries) if (n in chosen) == (part == "test")]
        for entry in own:
            path = partial / part / entry.file_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to((index / entry.file_path).resolve())
        write_index(partial / part, own)
        lines = [" ".join(e.extra["text"].split()) for e in sorted(own, key=lambda e: e.file_path)]
        (partial / part / "texts.txt").write_text("\n".join(lines) + "\n")
        print(f"{part}: {len(own)} files")
    os.replace(partial, output_dir)


def copies(clips: list[Path], output_dir: Path, overrides: list[str]) -> None:
    """Write what the codec makes of the held-out clips, all or none."""
    partial = output_dir.with_name(output_dir.name + ".tmp")
    plain = compose_plain(["model=demo_token_tts", *overrides])
    codec = AudioTokenizer.from_config(from_mapping(CodecConfig, plain["codec"], "codec"))
    for number, path in enumerate(clips):
        clip = torch.from_numpy(read_mono(path, codec.sample_rate)[0])
        [tokens] = codec.encode(clip[None], torch.tensor([len(clip)]))
        [copy] = codec.decode([tokens], [len(clip)])
        partial.mkdir(parents=True, exist_ok=True)
        with AudioWriter(partial / f"{number:06d}.wav", codec.sample_rate, 1) as writer:
            writer.write(copy.clamp(-1, 1)[None].numpy())
    os.replace(partial, output_dir)


def warped_distance(reference: np.ndarray, spoken: np.ndarray) -> float:
    """Return the mean distance of log-mels along the best path, in dB (samples,), 24 kHz each."""
    front_end = LogMel(FRONT_END)
    mels = [
        front_end(torch.from_numpy(x)[None])[0].clamp(min=FLOOR).numpy() * DB
        for x in (reference, spoken)
    ]
    costs = np.sqrt(np.square(mels[0][:, None] - mels[1][None]).mean(-1))
    _, path = librosa.sequence.dtw(C=costs)
    return float(np.mean([costs[i, j] for i, j in path]))


def scores(clips: list[Path], folder: Path) -> dict[str, np.ndarray]:
    """Return DNSMOS and distance of each file of a folder, in the order of the clips."""
    files = sorted(folder.glob("*.wav"))
    if len(files) != len(clips):
        raise UserError(f"{folder} has {len(files)} files, and {len(clips)} texts were held out")
    measured = folder.with_name(folder.name + "_measured")
    made = max(file.stat().st_mtime_ns for file in files)
    table = measured / "per_file.csv"
    if not table.exists() or table.stat().st_mtime_ns < made:
        shutil.rmtree(measured, ignore_errors=True)
        words = ["--restored-dir", folder, "--measures", "dnsmos", "--output-dir", measured]
        subprocess.run([sys.executable, ROOT / "src/evaluate.py", *words], check=True)
    with open(table, newline="") as file:
        # What was said too briefly to be measured is passed over.
        mos = {
            Path(r["file"]).name: float(r["dnsmos_overall"] or "nan") for r in csv.DictReader(file)
        }
    pairs = zip(clips, files, strict=True)
    heard = ((read_mono(a, 24000)[0], read_mono(b, 24000)[0]) for a, b in pairs)
    return {
        "DNSMOS": np.array([mos[file.name] for file in files]),
        "warped log-mel distance, dB": np.array([warped_distance(*pair) for pair in heard]),
    }


def best_loss(run: Path) -> float:
    """Return the least cross-entropy of validation, in bits a code."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").open())
    return min(r["loss"] for r in lines if r["split"] == "validation") / math.log(2)


def entropy(losses: list[float]) -> str:
    """Return the mean over seeds and half of its 95 % interval, which takes two seeds."""
    count = len(losses)
    if math.isnan(losses[0]):
        return "-"
    if count == 1:
        return f"{losses[0]:.3f}"
    half = stats.t.ppf(0.975, count - 1) * np.std(losses, ddof=1) / count**0.5
    return f"{np.mean(losses):.3f} ± {half:.3f}"


def interval(values: np.ndarray) -> str:
    """Return the mean of (runs, clips) and half of its 95 % interval."""
    rng = np.random.default_rng(0)
    runs, clips = values.shape
    means = [
        np.nanmean(values[rng.integers(runs, size=runs)][:, rng.integers(clips, size=clips)])
        for _ in range(2000)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{np.nanmean(values):.3f} ± {(high - low) / 2:.3f}"


def table(output_dir: Path, overrides: list[str]) -> None:
    """Score all runs, and print."""
    test = output_dir / "clean/test"
    clips = [test / e.file_path for e in sorted(read_index(test), key=lambda e: e.file_path)]
    if not (output_dir / "codec").exists():
        copies(clips, output_dir / "codec", overrides)
    found = {"codec's own copies": ([math.nan], [scores(clips, output_dir / "codec")])}
    for row in ROWS:
        runs = sorted((output_dir / "runs").glob(f"{row}-*"))
        spoken = [scores(clips, run / "spoken") for run in runs]
        found[row] = ([best_loss(run) for run in runs], spoken)
    names = list(found[ROWS[0]][1][0])
    rows = []
    for row, (losses, spoken) in found.items():
        cells = [interval(np.stack([each[name] for each in spoken])) for name in names]
        rows.append([row, entropy(losses), *cells])
    print(format_table(["trained on", "cross-entropy, bits", *names], rows))


@exit_on_user_error
def main() -> int:
    """Split, or score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    of_split, of_table = commands.add_parser("split"), commands.add_parser("table")
    of_split.add_argument("--index", type=Path, required=True)
    of_split.add_argument("--held-out", type=int, required=True)
    of_split.add_argument("--longest", type=float, required=True, metavar="SECONDS")
    for command in (of_split, of_table):
        command.add_argument("--output-dir", type=Path, required=True)
    of_table.add_argument("overrides", nargs="*", metavar="codec=…")
    arguments = parser.parse_args()
    if arguments.command == "split":
        split(arguments.index, arguments.held_out, arguments.longest, arguments.output_dir)
    else:
        table(arguments.output_dir, arguments.overrides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
