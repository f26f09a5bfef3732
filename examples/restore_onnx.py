"""Restore a recording with onnxruntime alone: no torch, and nothing of Open-Miipher-2.

    python src/export.py --format onnx --output-dir exported
    python examples/restore_onnx.py exported/model.onnx noisy.wav clean.wav

It needs numpy, soundfile, soxr and onnxruntime. Chunks, levels, noise and resampling are those of
src/inference.py by default (mono output at the model's rate), so copy from here what your own
program needs.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import onnxruntime
import soundfile
import soxr

SPEECH_RMS = 10 ** (-26 / 20)  # the level of active speech that models are given (ITU-T P.56)
SILENCE = 1e-6
STEP = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64
MIXERS = (30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB))


class Model:
    """An exported model.

    Args:
        path: of model.onnx.
        threads: of the computation; 0: all cores.
    """

    def __init__(self, path: str, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        told = self.session.get_modelmeta().custom_metadata_map
        self.input_rate, self.output_rate = int(told["input_rate"]), int(told["output_rate"])
        self.input_hop, self.output_hop = int(told["input_hop"]), int(told["output_hop"])
        self.chunk_frames = int(told["chunk_frames"])
        self.overlap_frames = int(told["overlap_frames"])
        if told["restores_level"] != "True":
            sys.exit("error: the model's output has no level: restore with src/inference.py")

    def restore(self, waveform: np.ndarray, sample_rate: int, seed: int = 0) -> np.ndarray:
        """Restore a recording of any length.

        Args:
            waveform: (channels, samples) float32, full scale ±1.
            sample_rate: in Hz.
            seed: of the noise that the vocoder starts from.

        Returns:
            (samples,) float32 at `output_rate`.
        """
        count = num_frames(waveform.shape[1], sample_rate, self.output_rate)
        mono = resampled(mixed(waveform), sample_rate, self.input_rate)
        gain = speech_gain(mono, self.input_rate)
        key = random_bits(random_bits(random_bits(np.uint64(0), seed), 0), 0)
        chunks = self.restored_chunks(mono * gain, key)
        joined = np.concatenate(list(self.joined(chunks))) / gain
        # Rounding must not make the output a sample too short.
        return np.pad(joined, (0, self.output_hop))[:count]

    def restored_chunks(self, waveform: np.ndarray, key: np.uint64) -> Iterator[np.ndarray]:
        """Yield every chunk, restored: (samples,)."""
        total = -(-len(waveform) // self.input_hop)
        hop = self.chunk_frames - self.overlap_frames
        for number in range(1 + -(-max(0, total - self.chunk_frames) // hop)):
            start = number * hop
            end = min(start + self.chunk_frames, total)
            chunk = waveform[start * self.input_hop : end * self.input_hop]
            length = len(chunk)
            chunk = np.pad(chunk, (0, (end - start) * self.input_hop - length))
            if not chunk.any():  # digital silence stays silent
                yield np.zeros((end - start) * self.output_hop, np.float32)
                continue
            given = {
                "waveform": chunk[None],
                "lengths": np.array([length]),
                "noise": noise(key, start * self.output_hop, (end - start) * self.output_hop)[None],
            }
            yield self.session.run(["restored"], given)[0][0]

    def joined(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Cross-fade the middle third of each overlap; yield the pieces of the joined signal."""
        margin = self.overlap_frames // 3 * self.output_hop
        fade = self.overlap_frames * self.output_hop - 2 * margin
        rise = np.sin(0.5 * np.pi * (np.arange(fade, dtype=np.float32) + 0.5) / max(1, fade)) ** 2
        before = None
        for chunk in chunks:
            if before is not None:
                end = len(before) - margin
                yield before[: end - fade]
                chunk = chunk[margin:].copy()
                chunk[:fade] = chunk[:fade] * rise + before[end - fade : end] * rise[::-1]
            before = chunk
        yield before


def num_frames(count: int, rate_in: int, rate_out: int) -> int:
    """Frames after a change of rate, halves up, at least 1."""
    return max(1, (2 * count * rate_out + rate_in) // (2 * rate_in))


def resampled(waveform: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """(samples,) at one rate -> (samples,) at the other, of exact length."""
    if rate_in == rate_out:
        return waveform
    count = num_frames(len(waveform), rate_in, rate_out)
    changed = soxr.resample(waveform, rate_in, rate_out, "HQ")[:count]
    return np.pad(changed, (0, count - len(changed)))


def mixed(waveform: np.ndarray) -> np.ndarray:
    """(channels, samples) -> (samples,), as loud as the loudest channel where it does not clip.

    Channels whose mean cancels are not mixed: the loudest is taken.
    """
    if len(waveform) == 1:
        return waveform[0]
    mean = waveform.mean(axis=0)
    powers = waveform.var(axis=1, dtype=np.float64)
    power = float(mean.var(dtype=np.float64))
    loudest = int((powers >= 0.99 * powers.max()).argmax())
    if power < 0.5 * powers.mean() / len(waveform):
        return waveform[loudest]
    if not power:
        return mean
    peak = np.abs(mean).max()
    raised = min(np.sqrt(powers[loudest] / power), max(1.0, np.abs(waveform).max()) / peak)
    return mean * np.float32(raised if raised >= 1.001 else 1.0)


def speech_gain(waveform: np.ndarray, sample_rate: int) -> np.float32:
    """Return the gain that brings active speech to SPEECH_RMS.

    Frames of 20 ms count without what lies below 200 Hz; the median of three leaves clicks out.
    """
    size = max(2, round(0.02 * sample_rate))
    whole = float(waveform.var(dtype=np.float64))
    if whole <= 0:
        return np.float32(1)
    window = np.hanning(size).astype(np.float32)
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    spectra = np.abs(np.fft.rfft(frames * window))[:, int(np.ceil(200.0 * size / sample_rate)) :]
    power = 2 * np.square(spectra, dtype=np.float64).sum(axis=1)
    power /= size * float(np.square(window).sum())
    power = np.median(power[: len(power) // 3 * 3].reshape(-1, 3), axis=1)
    if not power.any():
        power = np.array([whole])
    active = power >= max(10**0.9 * np.percentile(power, 10), 1e-3 * power.max())
    speech = power[active] if active.any() else power
    level = np.sqrt(np.minimum(speech, 10**0.9 * np.median(speech)).mean())
    return np.float32(min(SPEECH_RMS / max(level, SILENCE), 1 / np.sqrt(whole)))


def random_bits(key: np.uint64, places: np.ndarray | int) -> np.ndarray:
    """Return 64 random bits for each place of a stream (SplitMix64, of its counter)."""
    with np.errstate(over="ignore"):
        bits = key + (np.asarray(places).astype(np.uint64) + np.uint64(1)) * STEP
        for shift, factor in MIXERS:
            bits = (bits ^ (bits >> np.uint64(shift))) * factor
        return bits ^ (bits >> np.uint64(31))


def noise(key: np.uint64, start: int, count: int) -> np.ndarray:
    """Return standard normal noise, a function of the place in the signal: (count,) float32."""
    bits = random_bits(key, start + np.arange(count))
    high, low = (bits >> np.uint64(32)).astype(np.float64), bits & np.uint64(0xFFFFFFFF)
    radius = np.sqrt(-2 * np.log((high + 0.5) * 2.0**-32))
    return (radius * np.cos(low.astype(np.float64) * (2 * np.pi * 2.0**-32))).astype(np.float32)


def main() -> None:
    """Restore one file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="model.onnx, which src/export.py --format onnx writes")
    parser.add_argument("input", help="a recording")
    parser.add_argument("output", help="the restored file: .wav or .flac")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    arguments = parser.parse_args()
    model = Model(arguments.model, arguments.threads)
    waveform, rate = soundfile.read(arguments.input, dtype="float32", always_2d=True)
    restored = model.restore(np.ascontiguousarray(waveform.T), rate)
    soundfile.write(arguments.output, restored, model.output_rate, "PCM_16")


if __name__ == "__main__":
    main()
