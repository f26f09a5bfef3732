"""Restore a folder with a public tool, for comparison (benchmarks/peers.md: how to install them).

    python benchmarks/peers.py rnnoise|noisereduce --input-dir I --output-dir O

Every recording is read as one channel, and given at the rate that the tool asks for; the output is
brought back to the input's rate, length and place in time.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from open_miipher.audio.io import AudioWriter
from open_miipher.audio.resample import resample
from open_miipher.base.errors import exit_on_user_error
from open_miipher.evaluation.metrics import read_mono
from open_miipher.index.scan import find_audio

Restore = Callable[[np.ndarray, int], np.ndarray]


def rnnoise() -> Restore:
    """RNNoise (Valin 2018), with the weights that its package carries; 48 kHz, 16 bits."""
    from pyrnnoise.rnnoise import FRAME_SIZE, SAMPLE_RATE, create, destroy, process_frame

    def restore(waveform: np.ndarray, rate: int) -> np.ndarray:
        high = resample(waveform, rate, SAMPLE_RATE)
        padded = np.pad(high, (0, 3 * FRAME_SIZE - len(high) % FRAME_SIZE))
        state = create()
        frames = [
            process_frame(state, (frame * 32767).clip(-32768, 32767).astype(np.int16))[0]
            for frame in padded.reshape(-1, FRAME_SIZE)
        ]
        destroy(state)
        output = np.concatenate(frames).astype(np.float32) / 32767
        lag = _lag(padded, output, 3 * FRAME_SIZE)
        return resample(output[lag : lag + len(high)], SAMPLE_RATE, rate)

    return restore


def noisereduce() -> Restore:
    """Spectral gating (Sainburg 2020), in its default, for noise that changes."""
    from noisereduce import reduce_noise

    def restore(waveform: np.ndarray, rate: int) -> np.ndarray:
        return np.asarray(reduce_noise(y=waveform, sr=rate), dtype=np.float32)

    return restore


PEERS = {"rnnoise": rnnoise, "noisereduce": noisereduce}


def _lag(reference: np.ndarray, delayed: np.ndarray, longest: int) -> int:
    """Return by how many samples a signal comes later than another."""
    size = 2 * len(reference)
    spectra = np.fft.rfft(delayed, size) * np.conj(np.fft.rfft(reference, size))
    return int(np.argmax(np.fft.irfft(spectra)[:longest]))


@exit_on_user_error
def main() -> int:
    """Restore every file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--input-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    arguments = parser.parse_args()
    restore = PEERS[arguments.peer]()
    for name in find_audio(arguments.input_dir):
        waveform, rate = read_mono(arguments.input_dir / name)
        restored = np.zeros_like(waveform)
        given = restore(waveform, rate)[: len(waveform)]
        restored[: len(given)] = given
        path = (arguments.output_dir / name).with_suffix(".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        with AudioWriter(path, rate, 1, subtype="FLOAT") as writer:
            writer.write(restored[None])
    return 0


if __name__ == "__main__":
    sys.exit(main())
