"""Train the three demo-size stages on real speech; restore and score a held-back tenth of it.

    python benchmarks/real_speech.py --speech-dir DIR [DIR …] --noise-dir DIR --output-dir OUT

Every tenth file of speech and of noise is held back from training. The held-back speech is
damaged with the default degradations, restored with `src/inference.py`, and compared with the
clean files by log-spectral distance. Files below 24 kHz train only the cleaner: from them, a
vocoder would learn that speech has no upper band.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from distance import distance_db, window_of

from demo.commands import Progress, run
from open_miipher.audio.io import AudioWriter
from open_miipher.base.errors import exit_on_user_error
from open_miipher.config import compose_run
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.tables import format_table
from open_miipher.index import Entry, read_index, write_index

ROOT = Path(__file__).resolve().parents[1]
FULL_BAND = 24000  # Hz
FLOORS_DB = (-80.0, -100.0, -120.0)
HOLD_BACK = 10  # every tenth file is held back


def main() -> int:
    """Split, train, restore, score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech-dir", type=Path, nargs="+", required=True)
    parser.add_argument("--noise-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs=3, default=(3000, 6000, 3000))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    speech_dirs = [directory.resolve() for directory in arguments.speech_dir]
    noise_dir = arguments.noise_dir.resolve()
    output = arguments.output_dir
    if output.resolve().is_relative_to(ROOT):  # a published checkpoint must not name local folders
        output = output.resolve().relative_to(ROOT)
    os.chdir(ROOT)
    split(speech_dirs, noise_dir, output / "data")
    pairs = make_pairs(output)
    stages(output, arguments.steps, arguments.processes)
    report(output, pairs, arguments.steps)
    return 0


def split(speech_dirs: Sequence[Path], noise_dir: Path, data: Path) -> None:
    """Link the audio into separate directories; it is not copied, nothing is written beside it."""
    for root in speech_dirs:
        entries = read_index(root).entries
        full = [entry for entry in entries if entry.sample_rate >= FULL_BAND]
        narrow = [entry for entry in entries if entry.sample_rate < FULL_BAND]
        link(root, full, data / "speech" / "train", held_back=False)
        link(root, full, data / "speech" / "test", held_back=True)
        link(root, narrow, data / "speech" / "narrow", held_back=False)
    noise = read_index(noise_dir).entries
    link(noise_dir, noise, data / "noise" / "train", held_back=False)
    link(noise_dir, noise, data / "noise" / "test", held_back=True)


def link(root: Path, entries: Sequence[Entry], target: Path, held_back: bool) -> None:
    """Link one side of the split below `target` and index it."""
    chosen = [e for i, e in enumerate(entries) if (i % HOLD_BACK == 0) == held_back]
    known = read_index(target).entries if (target / "metadata.csv").exists() else []
    added = []
    for entry in chosen:
        place = target / root.name / entry.file_path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to((root / entry.file_path).resolve())
        added.append(replace(entry, file_path=f"{root.name}/{entry.file_path}", extra={}))
    if added:
        write_index(target, list({e.file_path: e for e in [*known, *added]}.values()))


def make_pairs(output: Path) -> list[str]:
    """Write the held-back files as they are to clean/ and damaged to noisy/; return their names."""
    speech, noise = output / "data/speech/test", output / "data/noise/test"
    count = len(read_index(speech).entries)
    run_config = compose_run(
        [
            "model=demo_feature_cleaner",
            f"data.test.dir_list=[{speech}]",
            f"data.test.noise_dir_list=[{noise}]",
            f"data.test.num_clips={count}",
            "data.test.clip_seconds=30",
        ]
    )
    dataset = run_config.data.validation(seed=0)
    names = []
    for position in range(dataset.num_items):
        sample = dataset[position]
        names.append(f"{position:04d}.wav")
        for folder, waveform in (("clean", sample.clean), ("noisy", sample.damaged)):
            path = output / folder / names[-1]
            path.parent.mkdir(exist_ok=True)
            with AudioWriter(path, dataset.sample_rate, 1, subtype="FLOAT") as writer:
                writer.write(np.asarray(waveform, np.float32)[None])
    return names


def stages(output: Path, steps: Sequence[int], processes: int) -> None:
    """Train the three stages and restore, with the commands that a user types."""
    torchrun = ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
    data = output / "data"
    wide, narrow = data / "speech/train", data / "speech/narrow"
    every = f"{wide},{narrow}" if narrow.exists() else str(wide)
    common = [
        f"data.train.noise_dir_list=[{data / 'noise/train'}]",
        f"data.test.dir_list=[{data / 'speech/test'}]",
        f"data.test.noise_dir_list=[{data / 'noise/test'}]",
    ]
    ends = [
        f"model.cleaner_ckpt_dir={output / 'stage1'}",
        f"model.vocoder_ckpt_dir={output / 'stage2'}",
    ]
    for number, (model, speech, more) in enumerate(
        (
            ("demo_feature_cleaner", every, []),
            ("demo_wavefit_pretrain", str(wide), []),
            ("demo_wavefit_finetune", str(wide), ends),
        ),
        start=1,
    ):
        folder, last = output / f"stage{number}", steps[number - 1]
        if (folder / "ckpt" / f"step-{last:08d}").exists():
            continue  # this stage is done: a repeated call continues after it
        overrides = [
            f"model={model}",
            f"data.train.dir_list=[{speech}]",
            *common,
            f"trainer.output_dir={folder}",
            f"trainer.max_steps={last}",
            f"trainer.validate_every={max(1, last // 6)}",
            *(f"optimizer.{n}.schedule_steps={last}" for n in networks(number)),
            *more,
        ]
        begun = (folder / "ckpt" / "latest").exists()
        resume = [f"trainer.ckpt_dir={folder}"] if begun else []
        progress = Progress(folder / "metrics.jsonl", last)
        run([*torchrun, "src/train.py", *(resume or overrides)], ROOT, output / "log", progress)
    restore = ["--ckpt-dir", output / "stage3", "--input-audio-dir", output / "noisy"]
    words = [*torchrun, "src/inference.py", *restore, "--output-dir", output / "restored"]
    run([str(word) for word in [*words, "--subtype", "FLOAT"]], ROOT, output / "log")


def networks(number: int) -> list[str]:
    """Return the networks that a stage trains."""
    return ["cleaner"] if number == 1 else ["generator", "discriminator"]


def report(output: Path, names: Sequence[str], steps: Sequence[int]) -> None:
    """Print and keep the mean distances of the pairs, at several floors."""
    rows = []
    for floor_db in FLOORS_DB:
        pairs = [distances(output, name, floor_db) for name in names]
        noisy, restored = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        nearer = sum(after < before for before, after in pairs)
        row = [f"{floor_db:.0f}", f"{noisy:.2f}", f"{restored:.2f}", f"{nearer} of {len(pairs)}"]
        rows.append(row)
    header = ["floor (dB)", "noisy LSD (dB)", "restored LSD (dB)", "files that came nearer"]
    text = f"{' + '.join(map(str, steps))} steps\n\n{format_table(header, rows)}"
    (output / "report.txt").write_text(text + "\n")
    print(text)


def distances(output: Path, name: str, floor_db: float) -> tuple[float, float]:
    """Return the distances of the noisy and of the restored file to the clean one."""
    clean, rate = read_mono(output / "clean" / name)
    noisy, restored = (
        distance_db(clean, read_mono(output / folder / name, rate)[0], window_of(rate), floor_db)
        for folder in ("noisy", "restored")
    )
    return noisy, restored


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
