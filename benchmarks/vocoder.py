"""Compare a diffusion vocoder with Griffin-Lim (60 iterations) at the same mel, on clips held out.

    python benchmarks/vocoder.py --ckpt-dir output/kathleen_vocoder --audio-dir output/kathleen/test

For every checkpoint of the run that is named: PESQ (wide band, at 16 kHz) and the log-spectral
distance, in dB, averaged over windows of 512, 1024 and 2048 samples, to the clip at the model's
rate; by the six steps of fast sampling and by all steps. Griffin-Lim starts from random phases
(seed 0) and the least-squares magnitudes of the mel, which are not negative.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import torch
from pesq import pesq
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from distance import distance_db

from open_miipher.audio.mel import LogMel
from open_miipher.audio.resample import resample
from open_miipher.checkpoint import Checkpoint
from open_miipher.diffusion import FAST_LEVELS
from open_miipher.diffusion.generator import Generator
from open_miipher.evaluation.metrics import read_mono

WINDOWS = (512, 1024, 2048)
MODES = ("fast", "full")


def griffin_lim(log_mel: Tensor, front_end: LogMel) -> np.ndarray:
    """Return (samples,) of a log-mel, (frames, bands)."""
    config = front_end.config
    mel = log_mel.exp().T.numpy().astype(np.float64)
    magnitude = librosa.util.nnls(front_end.basis.numpy().astype(np.float64), mel)
    frames = mel.shape[1]
    made = librosa.griffinlim(
        magnitude,
        n_iter=60,
        hop_length=config.hop_length,
        win_length=config.win_length,
        n_fft=config.n_fft,
        random_state=0,
        length=frames * config.hop_length - config.hop_length // 2,
    )
    return np.pad(made, (config.hop_length // 2, 0)).astype(np.float32)  # frames are in mid-hop


def scores(
    clips: list[np.ndarray], rate: int, make: Callable[[int, np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Return the means over the clips, and how many times real time the making took."""
    pesqs, distances, taken = [], [], 0.0
    for number, clip in enumerate(clips):
        began = time.perf_counter()
        made = make(number, clip)[: len(clip)]
        taken += time.perf_counter() - began
        distances.append(np.mean([distance_db(clip, made, size) for size in WINDOWS]))
        pesqs.append(pesq(16000, resample(clip, rate, 16000), resample(made, rate, 16000), "wb"))
    seconds = sum(map(len, clips)) / rate
    error = 1.96 / len(clips) ** 0.5
    return {
        "pesq": float(np.mean(pesqs)),
        "pesq_95": error * float(np.std(pesqs)),
        "distance_db": float(np.mean(distances)),
        "distance_95": error * float(np.std(distances)),
        "times_real_time": seconds / taken,
    }


def main() -> None:
    """Measure, and print a line of JSON for each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-dir", required=True, help="output directory of the run")
    parser.add_argument("--ckpt", nargs="+", default=["newest"], help="steps, best or newest")
    parser.add_argument("--audio-dir", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--clips", type=int, default=30)
    arguments = parser.parse_args()
    generators = {
        which: Generator.from_checkpoint(
            Checkpoint.open(arguments.ckpt_dir, which), torch.device("cpu")
        )
        for which in arguments.ckpt
    }
    first = next(iter(generators.values()))
    if first.condition is None:
        parser.error(f"{arguments.ckpt_dir} is unconditional and vocodes nothing")
    rate, front_end = first.sample_rate, first.condition.log_mel
    files = sorted(p for p in arguments.audio_dir.rglob("*") if p.suffix in (".wav", ".flac"))
    clips = [read_mono(file, rate)[0] for file in files[: arguments.clips]]

    def log_mel(clip: np.ndarray) -> Tensor:
        return front_end(torch.from_numpy(clip)[None])[0]

    row = scores(clips, rate, lambda _, clip: griffin_lim(log_mel(clip), front_end))
    print(json.dumps({"what": "griffin-lim, 60 iterations"} | row), flush=True)
    for which, generator in generators.items():
        for mode in arguments.modes:
            if mode == "fast":
                generator.use_fast(FAST_LEVELS)
            else:
                generator.descent = generator.schedule.full

            def vocode(number: int, clip: np.ndarray, own: Generator = generator) -> np.ndarray:
                items = torch.tensor([number])
                return own.generate(items, 0, log_mel(clip).T[None])[0].numpy()

            row = scores(clips, rate, vocode)
            print(json.dumps({"what": f"{which}, {mode}"} | row), flush=True)


if __name__ == "__main__":
    main()
