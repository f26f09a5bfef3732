"""Plant failures in restored speech; measure how well the score of trust finds them.

    python benchmarks/trust.py --material output/default/material [--files 120] [--speaker]

The material is the default model's (jobs/local/train_default.sh): stretches of `train` are for
fitting the constants of `restoration/trust.py`, those of `test`, other speakers, noises and rooms,
for the table. Each stretch gets a pause, is damaged, and restored by pretrained/default: the good
ones. Then each failure is planted in the restored sound; which kind comes where is drawn from the
stretch's number. Prints constants that fit, and the table of benchmarks/results/trust.md. With
--speaker, trust asks a network for the speaker too, and one more failure is planted.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from default_model import RATE, context_of

from open_miipher.audio.io import read
from open_miipher.audio.resample import resample
from open_miipher.base.errors import exit_on_user_error, report
from open_miipher.degradation import DegradationConfig, Trace, build_degradation
from open_miipher.evaluation.tables import format_table
from open_miipher.index import read_index
from open_miipher.restoration import Restorer
from open_miipher.restoration.trust import TrustMeter

SECONDS = 5.0
PAUSE_SECONDS = 1.0  # between two halves of every stretch: there, the input has only its noise
CODECS = {
    "mp3": {"name": "mp3", "bit_rates": [16.0, 24.0]},
    "opus": {"name": "opus", "bit_rates": [8.0, 12.0]},
    "mu_law": {"name": "mu_law"},
}
DAMAGES = {
    "noise 5-15 dB": {"noise": {"name": "noise", "snr_db": [5.0, 15.0]}},
    "room, noise 20 dB": {
        "reverb": {"name": "reverb", "target": "direct", "seconds": 1.0},
        "noise": {"name": "noise", "snr_db": [20.0, 20.0]},
    },
    "codec": {"codec": {"name": "choice", "stages": CODECS}},
    "band, clipping": {
        "low_pass": {"name": "low_pass", "cutoff": [2500.0, 4000.0]},
        "clipping": {"name": "hard_clipping", "gain": [1.5, 3.0]},
    },
    "clean": {},
}
MADE_FOR = {
    "gone": ("syllables silenced", "tail cut"),
    "added": ("words swapped", "another speaker", "noise passed off as speech"),
    "voice": (
        "words swapped",
        "another speaker",
        "noise passed off as speech",
        "pitch shifted",
    ),
    "hidden": ("noise -5 dB",),
    "band": ("highs cut",),
    "speaker": ("another voice, same words and pitch",),
}
GOOD = "good"
GOOD_FOR_EACH_BAD = 6  # in the fit: most restorations are good
RESAMPLES = 1000  # of the bootstrap
TOO_MUCH = {"noise -5 dB": {"noise": {"name": "noise", "snr_db": [-5.0, -5.0]}}}


@dataclass
class Stretch:
    """Speech of one speaker.

    Attributes:
        speaker: who speaks.
        clean: (samples,) with a pause in it.
        pause: its first sample and the one after its last.
        elsewhere: (samples,) of other speech of the same speaker.
    """

    speaker: str
    clean: np.ndarray
    pause: tuple[int, int]
    elsewhere: np.ndarray


@dataclass
class Restored:
    """A damaged stretch and what the model made of it, (samples,) both."""

    stretch: Stretch
    damage: str
    given: np.ndarray
    made: np.ndarray


def stretches(folder: Path, count: int) -> list[Stretch]:
    """Return stretches, one of each speaker in turn, each with other speech of the same speaker."""
    pieces: dict[str, dict[bytes, np.ndarray]] = {}  # by their first second: some are there twice
    size = int(SECONDS * RATE)
    for entry in read_index(folder).entries:
        speaker = pieces.setdefault(Path(entry.file_path).stem.rsplit("-", 1)[0], {})
        waveform = resample(read(folder / entry.file_path)[0][0], entry.sample_rate, RATE)
        for start in range(0, len(waveform) - size // 2, size):
            piece = waveform[start : start + size]
            speaker.setdefault((piece[:RATE] / np.abs(piece).max()).round(2).tobytes(), piece)
    speakers = {name: list(own.values()) for name, own in pieces.items() if len(own) > 1}
    most = max(map(len, speakers.values()), default=0)
    found = [
        _with_pause(name, own[turn], own[turn - 1])
        for turn in range(most)
        for name, own in speakers.items()
        if turn < len(own)
    ]
    if not found:
        report([f"{folder} has no speaker with two stretches of {SECONDS / 2} s or more"])
    return found[:count]


def _with_pause(speaker: str, waveform: np.ndarray, elsewhere: np.ndarray) -> Stretch:
    """Pull a stretch apart where it is quietest near its middle."""
    third, size = len(waveform) // 3, int(0.05 * RATE)
    power = np.convolve(np.square(waveform), np.ones(size), "same")[third : 2 * third]
    place, gap = third + int(power.argmin()), int(PAUSE_SECONDS * RATE)
    fade = np.linspace(0, 1, size // 5, dtype=np.float32)
    first, second = waveform[:place].copy(), waveform[place:].copy()
    first[-len(fade) :] *= fade[::-1]
    second[: len(fade)] *= fade
    clean = np.concatenate([first, np.zeros(gap, np.float32), second])
    return Stretch(speaker, clean, (place, place + gap), elsewhere)


def restored(material: Path, damages: dict[str, dict], count: int) -> list[Restored]:
    """Damage stretches of one half of the material, each in one way, and restore them."""
    speech, context = stretches(material / "speech", count), context_of(material)
    restorer = Restorer.from_checkpoint(device="cpu")
    chains = {
        name: build_degradation(DegradationConfig(stages), context)
        for name, stages in damages.items()
    }
    made = []
    for number in range(count):
        turn, place = divmod(number, len(speech))  # few stretches come again, damaged otherwise
        stretch, damage = speech[place], list(damages)[(place + turn) % len(damages)]
        trace = Trace(stretch.clean)
        given = chains[damage](stretch.clean, np.random.default_rng(number), trace)
        report([f"{damage} {number}: {failure}" for failure in trace.failures])
        given = given / np.float32(max(1.0, np.abs(given).max() / 0.99))
        made.append(Restored(stretch, damage, given, restorer.restore(given, RATE)[0]))
    return made


def _spoken_place(clean: np.ndarray, size: int, rng: np.random.Generator) -> int:
    """Return where a stretch of `size` samples begins in which somebody speaks most of the time."""
    frame = RATE // 100
    power = np.square(clean[: len(clean) // frame * frame]).reshape(-1, frame).mean(axis=1)
    active = (power > 1e-2 * np.percentile(power, 95)).astype(np.float64)
    share = np.convolve(active, np.ones(max(1, size // frame)), "valid") / (size // frame)
    places = np.flatnonzero(share >= min(0.8, share.max()))
    return int(rng.choice(places)) * frame


def _replace(made: np.ndarray, place: int, other: np.ndarray) -> np.ndarray:
    """Put other sound in, faded over 10 ms."""
    fade = np.linspace(0, 1, RATE // 100, dtype=np.float32)
    other = other[: len(made) - place]
    rise = np.concatenate([fade, np.ones(len(other) - 2 * len(fade), np.float32), fade[::-1]])
    changed = made.copy()
    stretch = changed[place : place + len(other)]
    stretch *= 1 - rise
    stretch += rise * other
    return changed


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform)))) + 1e-9


def _speech(source: np.ndarray, size: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return speech of `size` samples from anywhere in a recording, at a level."""
    source = np.resize(source, max(len(source), size))
    place = _spoken_place(source, size, rng)
    return source[place : place + size] * np.float32(level / _rms(source[place : place + size]))


def _exchanged(sound: Restored, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = int(rng.uniform(0.4, 1.0) * RATE)
    place = _spoken_place(sound.stretch.clean, size, rng)
    level = _rms(sound.made[place : place + size])
    return _replace(sound.made, place, _speech(source, size, level, rng))


def _words_swapped(sound: Restored, others: list[Stretch], rng: np.random.Generator) -> np.ndarray:
    return _exchanged(sound, sound.stretch.elsewhere, rng)


def _another_speaker(
    sound: Restored, others: list[Stretch], rng: np.random.Generator
) -> np.ndarray:
    other = others[rng.integers(len(others))].elsewhere
    if rng.random() < 0.5:
        return _exchanged(sound, other, rng)
    other = np.resize(other, len(sound.made))
    return other * np.float32(_rms(sound.made) / _rms(other))


def _silenced(sound: Restored, others: list[Stretch], rng: np.random.Generator) -> np.ndarray:
    size = int(rng.uniform(0.15, 0.4) * RATE)
    place = _spoken_place(sound.stretch.clean, size, rng)
    return _replace(sound.made, place, np.zeros(size, np.float32))


def _noise_as_speech(
    sound: Restored, others: list[Stretch], rng: np.random.Generator
) -> np.ndarray:
    first, end = sound.stretch.pause
    size = int(rng.uniform(0.4, 0.9) * RATE)
    level = _rms(sound.made) * 10 ** (rng.uniform(-6, 0) / 20)
    place = first + int(rng.integers(end - first - size))
    return _replace(sound.made, place, _speech(sound.stretch.elsewhere, size, level, rng))


def _tail_cut(sound: Restored, others: list[Stretch], rng: np.random.Generator) -> np.ndarray:
    clean = np.abs(sound.stretch.clean)
    last = int(np.flatnonzero(clean > 0.05 * clean.max())[-1])
    changed = sound.made.copy()
    changed[max(0, last - int(rng.uniform(0.5, 1.0) * RATE)) :] = 0
    return changed


def _pitch_shifted(sound: Restored, others: list[Stretch], rng: np.random.Generator) -> np.ndarray:
    """Stretch by a phase vocoder, then play faster or slower."""
    import torch
    from torchaudio.functional import phase_vocoder

    ratio = 2 ** (rng.uniform(2, 4) * rng.choice([-1, 1]) / 12)
    size, hop = 1024, 256
    window = torch.hann_window(size)
    spectrum = torch.stft(
        torch.from_numpy(sound.made), size, hop, window=window, return_complex=True
    )
    advance = torch.linspace(0, np.pi * hop, size // 2 + 1)[:, None]
    slower = phase_vocoder(spectrum, 1 / ratio, advance)
    stretched = torch.istft(slower, size, hop, window=window).numpy()
    shifted = resample(stretched, round(RATE * ratio), RATE)[: len(sound.made)]
    return np.pad(shifted, (0, len(sound.made) - len(shifted)))


def _highs_cut(sound: Restored, others: list[Stretch], rng: np.random.Generator) -> np.ndarray:
    from scipy.signal import butter, sosfiltfilt

    low_pass = butter(8, rng.uniform(2500, 4000), fs=RATE, output="sos")
    return sosfiltfilt(low_pass, sound.made).astype(np.float32)


def _formants_shifted(
    sound: Restored, others: list[Stretch], rng: np.random.Generator
) -> np.ndarray:
    """Stretch or squeeze the spectral envelope by 15 to 25 %, as of a smaller or larger head."""
    import torch

    ratio = rng.uniform(1.15, 1.25) ** rng.choice([-1, 1])
    size, hop, lowest = 1024, 256, 60  # quefrencies below are the envelope's: voices under 400 Hz
    window = torch.hann_window(size)
    spectrum = torch.stft(
        torch.from_numpy(sound.made), size, hop, window=window, return_complex=True
    )
    cepstrum = torch.fft.irfft((spectrum.abs() + 1e-6).log(), dim=0)
    cepstrum[lowest : size - lowest + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real.numpy()
    bins = np.arange(len(envelope))
    moved = np.stack([np.interp(bins / ratio, bins, frame) for frame in envelope.T], axis=1)
    gains = torch.from_numpy(np.exp(moved - envelope).astype(np.float32))
    return torch.istft(spectrum * gains, size, hop, window=window, length=len(sound.made)).numpy()


Failure = Callable[[Restored, list[Stretch], np.random.Generator], np.ndarray]
FAILURES: dict[str, Failure] = {
    "words swapped": _words_swapped,
    "syllables silenced": _silenced,
    "another speaker": _another_speaker,
    "noise passed off as speech": _noise_as_speech,
    "tail cut": _tail_cut,
    "pitch shifted": _pitch_shifted,
    "highs cut": _highs_cut,
}

OF_SPEAKERS: dict[str, Failure] = {"another voice, same words and pitch": _formants_shifted}


def planted(sounds: list[Restored], kind: str) -> Iterator[np.ndarray]:
    """Yield every sound with a failure in it."""
    plant = {**FAILURES, **OF_SPEAKERS}
    number = list(plant).index(kind)
    for index, sound in enumerate(sounds):
        others = [s.stretch for s in sounds if s.stretch.speaker != sound.stretch.speaker]
        yield plant[kind](sound, others, np.random.default_rng((number, index)))


@dataclass
class Judged:
    """Scores of one kind of sound, good or bad.

    Attributes:
        speakers: of each sound.
        damages: of each.
        values: of each part, before calibration.
        scores: of trust.
    """

    speakers: np.ndarray
    damages: np.ndarray
    values: list[dict[str, float]]
    scores: np.ndarray

    def of(self, part: str) -> np.ndarray:
        """Return the values of one part."""
        return np.array([values[part] for values in self.values])


def judge(sounds: list[Restored], made: Iterable[np.ndarray], speaker: bool) -> Judged:
    """Measure the trust in what was made of sounds, with the speaker or without."""
    values, scores = [], []
    for sound, waveform in zip(sounds, made, strict=True):
        meter = TrustMeter(RATE, RATE, 1, speaker)
        meter.push_input(sound.given[None], last=True)
        meter.push_output(waveform[None], last=True)
        scores.append(meter.finish().score)
        values.append(meter.values())
    return Judged(
        np.array([sound.stretch.speaker for sound in sounds]),
        np.array([sound.damage for sound in sounds]),
        values,
        np.array(scores),
    )


def judge_all(sounds: list[Restored], lost: list[Restored], speaker: bool) -> dict[str, Judged]:
    """Measure the trust in good sounds, with every kind of failure, and in those of TOO_MUCH."""
    judged = {GOOD: judge(sounds, (sound.made for sound in sounds), speaker)}
    for kind in {**FAILURES, **(OF_SPEAKERS if speaker else {})}:
        judged[kind] = judge(sounds, planted(sounds, kind), speaker)
    (kind,) = TOO_MUCH
    return {**judged, kind: judge(lost, (sound.made for sound in lost), speaker)}


def fit(judged: dict[str, Judged]) -> dict[str, tuple[float, float]]:
    """Fit the constants of each part: a logistic regression, good against what it is made for."""
    from scipy.optimize import minimize

    fitted = {}
    for part in judged[GOOD].values[0]:
        kinds = MADE_FOR[part]
        good = judged[GOOD].of(part)
        bad = np.concatenate([judged[kind].of(part) for kind in kinds])

        def loss(constants: np.ndarray, good: np.ndarray = good, bad: np.ndarray = bad) -> float:
            middle, steepness = constants
            wrong = np.logaddexp(0, steepness * (good - middle)).mean()
            return float(
                GOOD_FOR_EACH_BAD * wrong + np.logaddexp(0, -steepness * (bad - middle)).mean()
            )

        first = (good.mean() + bad.mean()) / 2
        found = minimize(loss, [first, 2 / first], method="Nelder-Mead").x
        fitted[part] = round(float(found[0]), 2), round(float(found[1]), 2)
    return fitted


def area(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a good sound has more trust than a bad one."""
    above = good[:, None] > bad
    return float((above + 0.5 * (good[:, None] == bad)).mean())


def interval(good: Judged, bad: list[Judged]) -> str:
    """Return the area of good against bad with its 95 % interval, speakers drawn again."""
    rng, speakers = np.random.default_rng(0), np.unique(good.speakers)

    def of(drawn: np.ndarray) -> float:
        rows = [np.concatenate([np.flatnonzero(j.speakers == s) for s in drawn]) for j in bad]
        chosen = np.concatenate([np.flatnonzero(good.speakers == s) for s in drawn])
        worse = [judged.scores[row] for judged, row in zip(bad, rows, strict=True)]
        return area(good.scores[chosen], np.concatenate(worse))

    areas = [of(rng.choice(speakers, len(speakers))) for _ in range(RESAMPLES)]
    low, high = np.percentile(areas, [2.5, 97.5])
    return f"{of(speakers):.3f} [{low:.3f}, {high:.3f}]"


def table(judged: dict[str, Judged]) -> str:
    """Format the areas, and how many are trusted."""
    good = judged[GOOD]
    bad = [kind for kind in judged if kind != GOOD and kind not in TOO_MUCH]
    rows = [[kind, interval(good, [judged[kind]]), *_shares(judged[kind].scores)] for kind in bad]
    rows.append(["all of them", interval(good, [judged[kind] for kind in bad]), "", ""])
    rows += [[kind, "", *_shares(judged[kind].scores)] for kind in TOO_MUCH]
    rows += [
        [f"good: {damage}", "", *_shares(good.scores[good.damages == damage])]
        for damage in dict.fromkeys(good.damages)
    ]
    rows.append(["good: all", "", *_shares(good.scores)])
    return format_table(["kind", "ROC area", "median trust", "above 0.6"], rows)


def _shares(scores: np.ndarray) -> list[str]:
    return [f"{np.median(scores):.2f}", f"{np.mean(scores > 0.6):.0%}"]


def main() -> int:
    """Restore, plant, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--material", type=Path, required=True, help="the folder that holds train and test")
    add("--files", type=int, default=120, help="sounds of each half (default: %(default)s)")
    add("--speaker", action="store_true", help="ask for the speaker too (resemblyzer)")
    arguments = parser.parse_args()
    for half in ("train", "test"):
        sounds = restored(arguments.material / half, DAMAGES, arguments.files)
        lost = restored(arguments.material / half, TOO_MUCH, arguments.files // 3)
        judged = judge_all(sounds, lost, arguments.speaker)
        if half == "train":
            print(f"CALIBRATION = {fit(judged)}")
        speakers = len(np.unique(judged[GOOD].speakers))
        print(f"{half}: {len(sounds)} sounds of {speakers} speakers\n\n{table(judged)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_user_error(main)())
