"""Measure the small restorer on held-back speakers, noises and rooms, in several kinds of damage.

    python benchmarks/default_model.py --material output/default/material/test --output-dir OUT
        [--ckpt-dir RUN] [--files 64] [--nisqa-weights nisqa.tar] [--peers-python PYTHON]

Makes OUT/sets/KIND/{input,reference} once (the same for every model), restores them to
OUT/restored/MODEL/KIND with the command that users have, and with public tools
(benchmarks/peers.md), these once too; measures all with src/evaluate.py, and prints one table with
95 % intervals. The files that lost most words are drawn to OUT/worst.png. What the model is not
made for, music and two voices at once, is restored too, drawn to OUT/others.png, and its change of
level is printed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from peers import PEERS

from open_miipher.audio.io import AudioWriter, read
from open_miipher.audio.resample import resample
from open_miipher.base.errors import exit_on_user_error, report
from open_miipher.degradation import Context, DegradationConfig, Trace, build_degradation
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.spectrograms import Panel, save_spectrograms
from open_miipher.evaluation.tables import format_table
from open_miipher.index import read_index

ROOT = Path(__file__).resolve().parents[1]
LOW_PASS = {"name": "low_pass", "cutoff": [2500.0, 4000.0]}
CLIPPING = {"name": "hard_clipping", "gain": [1.5, 5.0]}
SETS = {
    "noise": {"noise": {"name": "noise", "snr_db": [2.0, 15.0]}},
    "mild_noise": {"noise": {"name": "noise", "snr_db": [7.5, 17.5]}},
    "reverb": {
        "reverb": {"name": "reverb", "target": "direct", "seconds": 1.0},
        "noise": {"name": "noise", "snr_db": [20.0, 20.0]},
    },
    "band": {"low_pass": LOW_PASS, "clipping": CLIPPING},
    "clipped": {"clipping": CLIPPING, "low_pass": LOW_PASS},  # the band has no distortion above it
    "codecs": {
        "codec": {
            "name": "choice",
            "stages": {
                "mp3": {"name": "mp3", "bit_rates": [16.0, 24.0]},
                "opus": {"name": "opus", "bit_rates": [8.0, 12.0]},
                "vorbis": {"name": "vorbis", "qualities": [0.0]},
                "mu_law": {"name": "mu_law"},
            },
        }
    },
    "clean": {},
}
_NUM_WORST = 10
_NUM_OTHERS = 5  # of music, and of two voices
OTHERS = "others"  # the folder of what is not a single voice
RATE, SECONDS = 24000, 4.6  # DNSMOS hears 9.01 s at once: twice this
METRICS = {
    "dnsmos_overall": "DNSMOS",
    "nisqa": "NISQA",
    "estoi": "ESTOI",
    "pesq": "PESQ",
    "log_spectral_distance": "LSD, dB",
    "speaker_similarity": "speaker",
    "bandwidth_hz": "band, kHz",
}


def _waveforms(folders: list[Path]) -> list[np.ndarray]:
    """Return every recording of some indexed folders at RATE."""
    found = []
    for folder in folders:
        for entry in read_index(folder).entries:
            waveform, rate = read(folder / entry.file_path)
            found.append(resample(waveform[0], rate, RATE))
    return found


def context_of(material: Path) -> Context:
    """Return the noises and rooms of one half of the material, for damages at RATE."""
    noises = _waveforms([material / "noise"])
    rooms = _waveforms([material / "rir", material / "rooms"])

    def noise(rng: np.random.Generator, num_samples: int) -> tuple[np.ndarray, str]:
        recording = noises[rng.integers(len(noises))]
        start = int(rng.integers(len(recording)))
        return np.resize(np.roll(recording, -start), num_samples), "recorded"

    def room(rng: np.random.Generator) -> tuple[np.ndarray, str]:
        return rooms[rng.integers(len(rooms))], "room"

    return Context(RATE, noise, room)


def _speech(folder: Path, count: int) -> list[np.ndarray]:
    """Return different stretches of full-band speech: one of every file, then another of each."""
    files: dict[bytes, np.ndarray] = {}
    for entry in read_index(folder).entries:
        if entry.sample_rate == RATE:
            waveform = read(folder / entry.file_path)[0][0]
            files.setdefault(waveform[:RATE].tobytes(), waveform)  # some are there twice
    size = int(SECONDS * RATE)
    stretches = [
        waveform[start : start + size]
        for start in range(0, max(len(x) for x in files.values()), size)
        for waveform in files.values()
        if len(waveform) - start >= size // 3
    ]
    if len(stretches) < count:
        report([f"{folder} has {len(stretches)} stretches at {RATE} Hz, not {count}: --files"])
    return stretches[:count]


def make_sets(material: Path, output: Path, count: int) -> None:
    """Write input and reference of every kind of damage."""
    speech, context = _speech(material / "speech", count), context_of(material)
    for kind, stages in SETS.items():
        chain = build_degradation(DegradationConfig(stages), context)
        for number, waveform in enumerate(speech):
            trace = Trace(waveform)
            damaged = chain(waveform, np.random.default_rng(number), trace)
            report([f"{kind} {number}: {failure}" for failure in trace.failures])
            for folder, samples in (("input", damaged), ("reference", trace.target)):
                scaled = samples / max(1.0, float(np.abs(damaged).max()) / 0.99)
                _write(output / kind / folder / f"{number:03d}.wav", scaled)
    voices = [0.5 * x / np.abs(x).max() for x in speech]
    for number in range(_NUM_OTHERS):
        first, second = voices[2 * number : 2 * number + 2]
        both = first + np.resize(second, len(first))
        _write(output / OTHERS / f"two_voices_{number}.wav", both / max(1.0, np.abs(both).max()))
        _write(output / OTHERS / f"music_{number}.wav", _music(np.random.default_rng(number)))


def _music(rng: np.random.Generator) -> np.ndarray:
    """Return chords of plucked, harmonic notes over a drum, peak 0.5: (samples,)."""
    mixed, seconds = np.zeros(int(SECONDS * RATE)), 0.5
    time = np.arange(int(2 * seconds * RATE)) / RATE
    for beat in range(int(SECONDS / seconds)):
        root = 110.0 * 2.0 ** (rng.integers(12) / 12)
        for note in (root, root * 1.25, root * 1.5, root * 4):
            harmonics = np.arange(1, 1 + min(20, int(10000 / note)))[:, None]
            waves = np.sin(2 * np.pi * note * harmonics * time) / harmonics
            sound = (waves * np.exp(-2.0 * harmonics**0.5 * time)).sum(0)
            _add(mixed, sound, int(beat * seconds * RATE))
        drum = rng.standard_normal(len(time)) * np.exp(-60 * time)
        _add(mixed, 2 * drum, int((beat + 0.5) * seconds * RATE))
    return 0.5 * mixed / np.abs(mixed).max()


def _add(mixed: np.ndarray, sound: np.ndarray, start: int) -> None:
    mixed[start : start + len(sound)] += sound[: len(mixed) - start]


def _write(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(path, RATE, 1, subtype="FLOAT") as writer:
        writer.write(waveform[None].astype(np.float32))


def table(output: Path, models: list[str]) -> str:
    """Return the inputs and what each model made of them, one row each."""
    rows = []
    for kind in SETS:
        summaries = {
            name: json.loads((output / "measured" / name / kind / "summary.json").read_text())
            for name in models
        }
        cases = [("input", summaries[models[0]], "input_")]
        cases += [(name, summary, "") for name, summary in summaries.items()]
        rows += [
            [kind, who, *(_cell(summary.get(prefix + metric), metric) for metric in METRICS)]
            for who, summary, prefix in cases
        ]
    return format_table(["damage", "", *METRICS.values()], rows)


def draw_worst(output: Path) -> str:
    """Draw the files that lost most words (ESTOI against the input) to worst.png, and list them."""
    found = []
    for kind in SETS:
        with open(output / "measured/ours" / kind / "per_file.csv", newline="") as file:
            for row in csv.DictReader(file):
                loss = float(row["estoi"]) - float(row["input_estoi"])
                found.append((loss, kind, row["file"]))
    pictures, lines = [], []
    for loss, kind, name in sorted(found)[:_NUM_WORST]:
        files = {
            "input": output / "sets" / kind / "input" / name,
            "restored": _restored(output, kind=kind) / name,
            "reference": output / "sets" / kind / "reference" / name,
        }
        pictures.append(
            [Panel(f"{kind} {name} {who}", *read_mono(path)) for who, path in files.items()]
        )
        lines.append(f"{kind}/{name}: ESTOI {loss:+.3f}")
    save_spectrograms(output / "worst.png", pictures)
    return "\n".join(lines)


def draw_others(output: Path) -> str:
    """Draw what is not a single voice to others.png, and list what became of its level."""
    pictures, lines = [], []
    for path in sorted((output / "sets" / OTHERS).glob("*.wav")):
        pair = [read_mono(folder / path.name) for folder in (path.parent, _restored(output))]
        pictures.append(
            [Panel(f"{path.stem} {who}", *x) for who, x in zip(("in", "out"), pair, strict=True)]
        )
        before, after = (10 * np.log10(np.mean(x**2) + 1e-12) for x, _ in pair)
        low, high = (np.abs(x).max() for x, _ in pair)
        lines.append(f"{path.stem}: {before:.1f} -> {after:.1f} dB, peak {low:.2f} -> {high:.2f}")
    save_spectrograms(output / "others.png", pictures)
    return "\n".join(lines)


def _restored(output: Path, model: str = "ours", kind: str = OTHERS) -> Path:
    return output / "restored" / model / kind


def _cell(value: dict[str, float] | None, metric: str) -> str:
    if value is None:
        return "-"
    scale, digits = (1e-3, 1) if metric == "bandwidth_hz" else (1.0, 3)
    mean, low, high = (f"{scale * value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


@exit_on_user_error
def main() -> int:
    """Make the sets, restore, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--material", type=Path, required=True, help="the held-back part: speech/, noise/, rir/ …")
    add("--output-dir", type=Path, required=True)
    add("--ckpt-dir", type=Path, help="the model (default: the one that inference.py takes)")
    add("--files", type=int, default=64, help="of each kind (default: %(default)s)")
    add("--nisqa-weights", type=Path)
    add("--num-workers", type=int, default=2)
    add("--peers-python", type=Path, help="of the environment with the public tools")
    arguments = parser.parse_args()
    output: Path = arguments.output_dir
    sets = output / "sets"
    if not sets.exists():
        make_sets(arguments.material, output / "sets.tmp", arguments.files)
        (output / "sets.tmp").rename(sets)
    peers = list(PEERS) if arguments.peers_python else []
    own = ["--ckpt-dir", arguments.ckpt_dir] if arguments.ckpt_dir else []

    def restore(given: Path, restored: Path) -> None:
        folders = ["--input-audio-dir", given, "--output-dir", restored]
        _run(sys.executable, "src/inference.py", *own, *folders, "--overwrite")

    restore(sets / OTHERS, _restored(output))
    print(draw_others(output))
    for model in ["ours", *peers]:
        for kind in SETS:
            given, restored = sets / kind / "input", _restored(output, model, kind)
            measured = output / "measured" / model / kind
            if model != "ours" and (measured / "summary.json").exists():
                continue
            if model == "ours":
                restore(given, restored)
            else:
                folders = ["--input-dir", given, "--output-dir", restored]
                _run(arguments.peers_python, "benchmarks/peers.py", model, *folders)
            _run(
                *[sys.executable, "src/evaluate.py", "--restored-dir", restored],
                *["--reference-dir", sets / kind / "reference"],
                *(["--input-dir", given] if model == "ours" else []),
                *["--output-dir", measured],
                *["--num-workers", arguments.num_workers],
                *(["--nisqa-weights", arguments.nisqa_weights] if arguments.nisqa_weights else []),
            )
    print(table(output, ["ours", *peers]))
    print(f"\nworst.png:\n{draw_worst(output)}")
    return 0


def _run(*command: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment
    )


if __name__ == "__main__":
    sys.exit(main())
