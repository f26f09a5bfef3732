"""Compare a stream with a file: what short chunks and a level found on the way cost.

    python benchmarks/streaming.py --speech-dir SPEECH --noise-dir NOISE

Long recordings are made as by file_statistics.py: utterances at different levels, pauses between
them, noise. Each is restored whole, with the command's defaults, and as streams of several chunks.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from distance import distance_db, window_of
from file_statistics import background, put_together

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.base.errors import exit_on_user_error
from open_miipher.evaluation.tables import format_table
from open_miipher.restoration import DEFAULT_MODEL, RestoreOptions, Restorer

CHUNKS = (20.0, 2.0), (5.0, 1.0), (2.0, 0.5), (1.0, 0.25), (0.5, 0.125), (0.25, 0.0625)
BLOCK_SECONDS = 0.02


def main() -> int:
    """Restore the same recordings in all ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt-dir", default=DEFAULT_MODEL, help="default: the default model")
    parser.add_argument("--speech-dir", type=Path, required=True, help="clean, with metadata.csv")
    parser.add_argument("--noise-dir", type=Path, required=True, help="with metadata.csv")
    parser.add_argument("--recordings", type=int, default=10, help="how many (default: 10)")
    arguments = parser.parse_args()
    whole = Restorer.from_checkpoint(arguments.ckpt_dir)
    rate = whole.model.output_rate
    streams = [
        Restorer(whole.model, RestoreOptions(chunk_seconds=c, overlap_seconds=o)) for c, o in CHUNKS
    ]
    names = ["as it was", "as a file", *(f"as a stream, chunks of {c:g} s" for c, _ in CHUNKS)]
    distances: dict[str, list[float]] = {name: [] for name in names}
    for number in range(arguments.recordings):
        rng = np.random.default_rng(number)
        clean = put_together(arguments.speech_dir, rate, (0.3, 3.0), rng)
        noisy = clean + background(arguments.noise_dir, clean, rate, rng)
        sounds = [
            noisy,
            whole.restore(noisy, rate)[0],
            *(streamed(s, noisy, rate) for s in streams),
        ]
        for name, sound in zip(names, sounds, strict=True):
            distances[name].append(distance_db(clean, sound, window_of(rate)))
        print(f"{number + 1} of {arguments.recordings}", file=sys.stderr)
    as_file = np.array(distances["as a file"])
    latencies = ["", "", *(f"{s.stream(rate).latency_seconds:.2f}" for s in streams)]
    rows = []
    for name, latency in zip(names, latencies, strict=True):
        more = np.array(distances[name]) - as_file
        error = more.std(ddof=1) / np.sqrt(len(more))
        rows.append(
            [name, f"{np.mean(distances[name]):.2f}", f"{more.mean():+.2f} ± {error:.2f}", latency]
        )
    header = ["restored", "LSD to clean, dB", "more than the file's", "latency, s"]
    print(format_table(header, rows))
    return 0


def streamed(restorer: Restorer, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Restore (samples,) as a stream of short blocks."""
    stream, size = restorer.stream(sample_rate), round(BLOCK_SECONDS * sample_rate)
    starts = range(0, len(waveform), size)
    restored = [stream.push(waveform[start : start + size]) for start in starts]
    return np.concatenate([*restored, stream.finish()])


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
