"""A made-up language in which each letter is a tone, a codec of random weights, and tiny models."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 24000
LETTERS = "abcdefgh"
LETTER_SAMPLES = 1600  # five frames of the codec

TINY = [
    "model=demo_token_tts",
    "model.network.encoder={layers: 1, heads: 2, width: 16}",
    "model.network.decoder={layers: 2, heads: 2, width: 24}",
    "data.seconds=0.8",
    "data.augmentation_factor=2",
    "data.test.num_clips=3",
    "trainer.batch_size=4",
    "trainer.num_workers=0",
    "trainer.device=cpu",
    "trainer.sample_every=0",
]


def overrides(root: Path, *more: str) -> list[str]:
    """A run of a few seconds on one core, on what `make_all` made."""
    return [
        *TINY,
        f"codec.source={root / 'codec'}",
        f"data.train.dir_list=[{root / 'train'}]",
        f"data.test.dir_list=[{root / 'test'}]",
        *more,
    ]


def say(text: str) -> np.ndarray:
    """Return the sound of a text: (samples,) float32, a tone a letter, silence for others."""
    t = np.arange(LETTER_SAMPLES) / RATE
    window = np.hanning(LETTER_SAMPLES) ** 0.3
    tones = [
        0.3 * window * np.sin(2 * np.pi * 250 * 2 ** (LETTERS.find(c) / 3) * t)
        if c in LETTERS
        else 0.0 * t
        for c in text
    ]
    return np.concatenate(tones).astype(np.float32)


def words(number: int, seed: int, shortest: int = 3, longest: int = 9) -> list[str]:
    """Draw words of the language, no two alike."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        size = rng.integers(shortest, longest + 1)
        found["".join(rng.choice(list(LETTERS), size))] = None
    return list(found)


def make_speech(root: Path, texts: list[str]) -> Path:
    """Write an indexed directory of texts that are said."""
    from open_miipher.index import Entry, write_index

    root.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, text in enumerate(texts):
        waveform = say(text) if text.strip() else np.zeros(RATE // 2, np.float32)
        soundfile.write(root / f"{number:03d}.wav", waveform, RATE)
        entries.append(Entry(f"{number:03d}.wav", RATE, len(waveform), 1, {"text": text}))
    write_index(root, entries)
    return root


def make_all(root: Path) -> Path:
    """Make `train`, `test` and `codec` in a folder."""
    from tiny_codec import make_codec

    make_codec(root / "codec")
    make_speech(root / "train", words(10, seed=1))
    make_speech(root / "test", words(4, seed=2))
    return root
