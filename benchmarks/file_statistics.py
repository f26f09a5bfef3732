"""Compare two ways to normalise a long recording: over the whole file, or over each chunk.

    python benchmarks/file_statistics.py --ckpt-dir CKPT --speech-dir SPEECH --noise-dir NOISE

For chains whose encoder normalises its input (w2v-BERT and others). Long recordings are made of
utterances at different levels, with pauses between them and added noise. Each recording is restored
with both values of --normalise-over and otherwise the command's defaults, and compared with the
clean one. Use speech and noise that were held back from training.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from distance import distance_db, window_of

from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.degradation.noise import active_power
from open_miipher.evaluation.metrics import read_mono
from open_miipher.evaluation.tables import format_table
from open_miipher.index import read_index
from open_miipher.losses import MultiScaleMelConfig, MultiScaleMelLoss
from open_miipher.restoration import Chain, RestoreOptions, Restorer, Source
from open_miipher.restoration.assembler import Leveler
from open_miipher.restoration.job import Chunk, Job
from open_miipher.restoration.streams import ArraySink

WAYS = "file", "chunk"  # of normalise_over
LEVEL_DB = (-38.0, -16.0)  # RMS of an utterance's active part, dB of full scale
SHORTEST_PAUSE = 0.3  # seconds
SNR_DB = (5.0, 20.0)
SECONDS = (60.0, 120.0)
FLOORS_DB = (-80.0, -100.0)
MEL = MultiScaleMelConfig(n_mels=[20, 80], win_lengths=[512, 2048])


def main() -> int:
    """Measure both ways on the same recordings and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt-dir", required=True, help="of stage 3")
    parser.add_argument("--speech-dir", type=Path, required=True, help="clean, with metadata.csv")
    parser.add_argument("--noise-dir", type=Path, required=True, help="with metadata.csv")
    parser.add_argument("--recordings", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--longest-pause", type=float, default=8.0, help="seconds (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chain = Chain.from_checkpoint(arguments.ckpt_dir)
    if not chain.needs_statistics:
        raise UserError(f"the encoder of {arguments.ckpt_dir} does not normalise what it hears")
    measured: dict[str, list[dict[str, float]]] = {over: [] for over in WAYS}
    for number in range(arguments.recordings):
        rng = np.random.default_rng([arguments.seed, number])
        pauses = SHORTEST_PAUSE, arguments.longest_pause
        clean = put_together(arguments.speech_dir, chain.output_rate, pauses, rng)
        noisy = clean + background(arguments.noise_dir, clean, chain.output_rate, rng)
        for over in WAYS:
            measured[over].append(measure(chain, over, clean, noisy))
        print(f"{number + 1} of {arguments.recordings}", file=sys.stderr)
    report(measured)
    return 0


def put_together(
    root: Path, sample_rate: int, pauses: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Join utterances with pauses (shortest and longest, s): (samples,) float32."""
    paths = [root / entry.file_path for entry in read_index(root).entries]
    pieces, num_samples = [], 0
    wanted = rng.uniform(*SECONDS) * sample_rate
    while num_samples < wanted:
        speech, _ = read_mono(paths[rng.integers(len(paths))], sample_rate)
        level = 10 ** (rng.uniform(*LEVEL_DB) / 20)
        gain = level / np.sqrt(max(active_power(speech, sample_rate), 1e-12))
        pause = np.zeros(round(rng.uniform(*pauses) * sample_rate))
        pieces += [np.clip(gain * speech, -1, 1), pause]
        num_samples += len(speech) + len(pause)
    return np.concatenate(pieces).astype(np.float32)


def background(
    root: Path, clean: np.ndarray, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Return noise for a recording, from one file, repeated where it is too short."""
    paths = [root / entry.file_path for entry in read_index(root).entries]
    noise, _ = read_mono(paths[rng.integers(len(paths))], sample_rate)
    noise = np.resize(np.roll(noise, rng.integers(len(noise))), len(clean))
    snr = 10 ** (rng.uniform(*SNR_DB) / 10)
    power = active_power(clean, sample_rate) / snr
    gain = np.sqrt(power / max(float(np.mean(np.square(noise))), 1e-12))
    return (gain * noise).astype(np.float32)


def measure(chain: Chain, over: str, clean: np.ndarray, noisy: np.ndarray) -> dict[str, float]:
    """Restore a recording one way and compare."""
    options = RestoreOptions(normalise_over=over)  # type: ignore[arg-type]
    listener, rate = Listener(chain), chain.output_rate
    size = window_of(rate)
    restorer = Restorer(listener, options, batch_size=1)
    job = restorer.job(Source.from_array(noisy[None], rate), sink := ArraySink())
    list(restorer.restore_jobs([job]))
    restored = sink.waveform[0]
    figures = {
        f"LSD of {name} to clean, floor {floor:.0f} dB (dB)": distance_db(clean, x, size, floor)
        for floor in FLOORS_DB
        for name, x in (("noisy", noisy), ("restored", restored))
    }
    mel = MultiScaleMelLoss(rate, MEL)
    for name, x in (("noisy", noisy), ("restored", restored)):
        pair = torch.from_numpy(clean)[None], torch.from_numpy(x)[None]
        figures[f"mel distance of {name} to clean"] = float(mel(*pair)["mel"])
    spoken = places_of_speech(clean)
    for name, x in (("noisy", noisy), ("restored", restored)):
        key = f"LSD of {name} to clean where somebody speaks (dB)"
        figures[key] = distance_db(clean[spoken], x[spoken], size)
    pauses = level_db(restored[~spoken]) - level_db(noisy[~spoken])
    figures["level in the pauses, restored over noisy (dB)"] = pauses
    halves = list(overlaps(job, listener.heard))
    steps = [abs(level_db(a) - level_db(b)) for place, a, b in halves if clean[place].any()]
    figures["level step at a spoken seam (dB), mean"] = float(np.mean(steps or [np.nan]))
    figures["level step at a spoken seam (dB), largest"] = max(steps, default=np.nan)
    spectra = [distance_db(a, b, size) for _, a, b in halves]
    figures["LSD of both sides of a seam (dB)"] = float(np.mean(spectra))
    figures["first pass (ms a second)"] = 1000 * job.seconds["measure"] * rate / len(noisy)
    return figures


def places_of_speech(clean: np.ndarray) -> np.ndarray:
    """Mark the blocks that contain more than the zeros of a pause: (samples,) bool."""
    starts = np.arange(0, len(clean), 2048)
    lengths = np.diff(starts, append=len(clean))
    return np.repeat(np.maximum.reduceat(np.abs(clean), starts) > 0, lengths)


class Listener:
    """The chain; it also keeps its inputs and outputs. For one signal, in batches of one."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.heard: list[tuple[np.ndarray, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def restore(self, waveform: Tensor, *arguments: Any) -> Tensor:
        """See `Chain.restore`."""
        restored = self._chain.restore(waveform, *arguments)
        self.heard.append((waveform.numpy(), restored.numpy()))
        return restored


def overlaps(
    job: Job, heard: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the place of each seam, and the audio of the chunks before and after it there.

    The place is the middle of the overlap. Both have the level that they have in the output.
    """
    hop, leveler = job.model.output_hop, Leveler(job)
    overlap, margin = job.grid.overlap_frames * hop, job.grid.margin_frames * hop
    leveled: list[np.ndarray] = []
    for k, (waveform, restored) in enumerate(heard):
        last, gains = k + 1 == len(heard), np.ones(1, np.float32)  # heard with its gain
        chunk = Chunk(job, k, waveform, waveform.shape[1], 0, last, gains, None, [0], restored)
        leveled += leveler.push(chunk, last)
    for k, (before, after) in enumerate(pairwise(leveled), start=1):
        start = k * job.grid.hop_frames * hop
        inside = slice(margin, overlap - margin)
        place = slice(start + inside.start, start + inside.stop)
        yield place, before[0, -overlap:][inside], after[0][inside]


def level_db(waveform: np.ndarray) -> float:
    """RMS of (samples,) in dB of full scale, at least -200."""
    return 10 * float(np.log10(max(np.mean(np.square(waveform, dtype=np.float64)), 1e-20)))


def report(measured: dict[str, list[dict[str, float]]]) -> None:
    """Print the means, and the mean of the differences with its standard error."""
    names = list(measured["file"][0])
    rows = []
    for name in names:
        by_file, by_chunk = (
            np.array([figures[name] for figures in measured[over]]) for over in WAYS
        )
        difference = by_file - by_chunk
        difference = difference[np.isfinite(difference)]
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
        rows.append(
            [
                name,
                f"{np.nanmean(by_file):.3f}",
                f"{np.nanmean(by_chunk):.3f}",
                f"{difference.mean():+.3f} ± {error:.3f}",
                f"{np.count_nonzero(difference < 0)} of {len(difference)}",
            ]
        )
    print(format_table(["mean over recordings", "file", "chunk", "difference", "file less"], rows))


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
