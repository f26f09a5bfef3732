"""Make the demo's audio again: synthetic speech and generated noise under dataset/demo/.

    python dataset/script/make_demo_audio.py [--output-dir dataset/demo]

The results are kept in the repository, so nobody needs this script to run the demo. It needs the
speech synthesiser espeak-ng (Debian and Ubuntu: apt-get install espeak-ng); another version of it
than the one named in dataset/demo/README.md gives other samples. All files are 24 kHz mono FLAC.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np

from open_miipher.audio.io import AudioWriter, read
from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError, exit_on_user_error
from open_miipher.commands import Parser
from open_miipher.index import scan, write_index

_SAMPLE_RATE = 24000
_NOISE_SECONDS = 2.0
_STEP = 2.0**-12
"""Samples are rounded to this, -77 dB of noise, which makes the files a third smaller."""


@dataclass(frozen=True)
class Sentence:
    """One utterance: espeak-ng's voice, speed in words a minute, pitch 0-99, and the peak level."""

    file_path: str
    voice: str
    speed: int
    pitch: int
    peak: float
    text: str


SENTENCES = [
    Sentence("train/lamp.flac", "en-gb", 165, 45, 0.5, "The lamp was lit before the rain began."),
    Sentence("train/river.flac", "en-us+f3", 180, 60, 0.4, "Seven boats went up the river today."),
    Sentence("train/kettle.flac", "en-gb-scotland", 170, 30, 0.6, "Put the kettle on, please."),
    Sentence("train/voice.flac", "en-us+m3", 150, 50, 0.5, "Every voice has its own colour."),
    Sentence("train/zug.flac", "de", 170, 40, 0.5, "Der Zug fährt gleich vom dritten Gleis ab."),
    Sentence("train/fenster.flac", "de+f2", 185, 65, 0.3, "Bitte schließ das Fenster im Flur."),
    Sentence("train/pain.flac", "fr-fr", 175, 45, 0.5, "Le pain sort du four à six heures."),
    Sentence("train/jardin.flac", "fr-fr+f4", 170, 70, 0.4, "Un chat gris dort au jardin."),
    Sentence("train/calle.flac", "es", 180, 35, 0.6, "La calle está vacía esta mañana."),
    Sentence("train/mare.flac", "it+f5", 175, 55, 0.5, "Il mare oggi è calmo e chiaro."),
    Sentence("train/fiets.flac", "nl+m7", 170, 50, 0.4, "Mijn fiets staat achter de schuur."),
    Sentence(
        "train/numbers.flac", "en-gb+f1", 200, 55, 0.5, "Four, nine, two, eleven, six, thirty."
    ),
    Sentence("test/bridge.flac", "en-us+f3", 170, 55, 0.5, "We met again on the old stone bridge."),
    Sentence("test/schnee.flac", "de", 165, 45, 0.4, "Auf den Dächern liegt noch Schnee."),
    Sentence("test/lumiere.flac", "fr-fr+f4", 180, 65, 0.5, "La lumière change vite en automne."),
    Sentence("test/owl.flac", "en-gb+m5", 160, 40, 0.6, "An owl called twice from the wood."),
]


def speak(sentence: Sentence) -> np.ndarray:
    """Synthesise a sentence: (1, frames) at 24 kHz with its peak level."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder, "spoken.wav")
        command = ["espeak-ng", "-v", sentence.voice, "-s", str(sentence.speed)]
        command += ["-p", str(sentence.pitch), "-w", str(spoken), sentence.text]
        subprocess.run(command, check=True)
        waveform, rate = read(spoken)
    waveform = resample(waveform, rate, _SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(waveform[0]) > 0.003)
    margin = _SAMPLE_RATE // 8
    waveform = waveform[:, max(0, loud[0] - margin) : loud[-1] + margin]
    return _with_peak(waveform, sentence.peak)


def make_noises() -> dict[str, np.ndarray]:
    """Generate the noises by file name: (1, frames) at 24 kHz."""
    from scipy.signal import butter, sosfilt  # slow to import

    rng = np.random.default_rng(2)
    time = np.arange(int(_NOISE_SECONDS * _SAMPLE_RATE)) / _SAMPLE_RATE

    def coloured(exponent: float) -> np.ndarray:
        """Unit-variance noise whose power falls with frequency ** exponent."""
        spectrum = np.fft.rfft(rng.standard_normal(len(time)))
        frequency = np.fft.rfftfreq(len(time), 1 / _SAMPLE_RATE)
        noise = np.fft.irfft(spectrum / np.maximum(frequency, 20) ** (exponent / 2), len(time))
        return noise / noise.std()

    def band(low: float, high: float) -> np.ndarray:
        sos = butter(2, [low, high], "bandpass", fs=_SAMPLE_RATE, output="sos")
        noise = sosfilt(sos, rng.standard_normal(len(time)))
        return noise / noise.std()

    hum = sum(
        np.sin(2 * np.pi * 50 * k * time + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 12)
    )
    babble = np.zeros_like(time)
    for _ in range(6):
        syllables = np.sin(2 * np.pi * rng.uniform(2, 6) * time + rng.uniform(0, 2 * np.pi))
        formants = band(300, 900) + 0.6 * band(900, 2600) + 0.3 * band(2600, 6000)
        babble += np.maximum(syllables, 0.1) * formants
    decay = np.exp(-np.arange(600) / 80)
    clicks = 0.01 * coloured(1.0)
    for start in rng.integers(0, len(time) - len(decay), 24):
        ring = np.sin(2 * np.pi * rng.uniform(800, 5000) * time[: len(decay)])
        clicks[start : start + len(decay)] += rng.uniform(0.2, 1.0) * decay * ring
    gusts = 1.2 + np.sin(2 * np.pi * 0.5 * time) + 0.4 * np.sin(2 * np.pi * 1.5 * time)
    noises = {
        "hum.flac": hum + 0.3 * coloured(1.0),
        "babble.flac": babble,
        "clicks.flac": clicks,
        "wind.flac": gusts * coloured(1.5),
    }
    return {name: _with_peak(noise[None], 0.2) for name, noise in noises.items()}


def _with_peak(waveform: np.ndarray, peak: float) -> np.ndarray:
    scaled = waveform * (peak / np.abs(waveform).max())
    rounded: np.ndarray = np.round(scaled / _STEP) * _STEP
    return rounded


def _write(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with AudioWriter(path, _SAMPLE_RATE, 1, format="flac") as writer:
        writer.write(waveform)


@exit_on_user_error
def main() -> int:
    """Make the files and a metadata.csv in each directory, with the texts."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--output-dir", type=Path, default=Path(__file__).resolve().parents[1] / "demo"
    )
    output_dir = parser.parse_args().output_dir
    if shutil.which("espeak-ng") is None:
        raise UserError("espeak-ng is not installed (Debian, Ubuntu: apt-get install espeak-ng)")
    columns = {}
    for sentence in SENTENCES:
        path = output_dir / "speech" / sentence.file_path
        _write(path, speak(sentence))
        columns[path] = {"text": sentence.text, "voice": sentence.voice}
    for name, noise in make_noises().items():
        _write(output_dir / "noise" / name, noise)
    for folder in ("speech/train", "speech/test", "noise"):
        root = output_dir / folder
        entries = scan(root).entries
        write_index(root, [replace(e, extra=columns.get(root / e.file_path, {})) for e in entries])
    return 0


if __name__ == "__main__":
    sys.exit(main())
