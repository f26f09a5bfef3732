"""Words that a recogniser hears in a recording, against those that are said."""

import csv
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable

POCKETSPHINX = "pocketsphinx"
"""The recogniser that comes with its English model, instead of a folder."""

Hearing = Callable[[np.ndarray, int], str]
"""From (samples,) and their rate to the words that are heard, as they are written."""

_PIECE_SECONDS = 30.0  # that a network hears at once
_LEAST_SECONDS = 0.1  # in which a word may be


def normalise(text: str) -> str:
    """Return words as they are compared: lower case, no punctuation, one blank between them.

    Apostrophes within words stay; hyphens and all other marks separate words, as blanks do. Numbers
    in digits stay digits.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower()
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text)
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", kept).split())


def edit_distance(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Return how many items must be added, removed or replaced (Levenshtein 1966)."""
    costs = list(range(len(given) + 1))  # of nothing to the first items given
    for row, item in enumerate(wanted, start=1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(given, start=1):
            replaced = diagonal + (item != other)
            diagonal = costs[column]
            costs[column] = min(replaced, diagonal + 1, costs[column - 1] + 1)
    return costs[-1]


def error_rates(text: str, heard: str) -> tuple[float, float] | None:
    """Return the edit distance in words and in characters, as shares of the text's.

    More than 1 is possible, if more is heard than is said. None: the text has no words.
    """
    wanted, given = normalise(text), normalise(heard)
    if not wanted:
        return None
    words = edit_distance(wanted.split(), given.split()) / len(wanted.split())
    letters = [x.replace(" ", "") for x in (wanted, given)]
    return words, edit_distance(*letters) / len(letters[0])


def load_hearing(name: str) -> Hearing:
    """Load a recogniser. Silence, and what is shorter than 0.1 s, has no words.

    Args:
        name: `POCKETSPHINX`, or a folder of transformers with a CTC model, its feature extractor
            and its tokenizer.

    Raises:
        ImportError: its package is missing.
        UserError: there is no such model.
    """
    rate, recognise = _load_pocketsphinx() if name == POCKETSPHINX else _load_ctc(Path(name))

    def hear(waveform: np.ndarray, sample_rate: int) -> str:
        if len(waveform) < _LEAST_SECONDS * sample_rate or not np.any(waveform):
            return ""
        return recognise(resample(waveform, sample_rate, rate))

    return hear


def _load_pocketsphinx() -> tuple[int, Callable[[np.ndarray], str]]:
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")

    def recognise(waveform: np.ndarray) -> str:
        pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
        decoder.reinit_feat()  # or it would go on learning from one recording to the next
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found is not None else ""

    return 16000, recognise


def _load_ctc(folder: Path) -> tuple[int, Callable[[np.ndarray], str]]:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    if not folder.is_dir():
        raise UserError(
            f"--words {printable(folder)} is no folder: give that of a CTC model, or {POCKETSPHINX}"
        )
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCTC.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--words {printable(folder)} holds no CTC model of transformers: {reason}"
        ) from error
    rate = int(extractor.sampling_rate)

    def recognise(waveform: np.ndarray) -> str:
        count = int(np.ceil(len(waveform) / (_PIECE_SECONDS * rate)))
        heard = []
        for piece in np.array_split(waveform, count):
            inputs = extractor(piece, sampling_rate=rate, return_tensors="pt")
            with torch.inference_mode():
                best = model(**inputs).logits[0].argmax(-1)
            heard.append(tokenizer.decode(best))
        return " ".join(heard)

    return rate, recognise


def read_texts(path: Path, match: Callable[[Sequence[str]], dict[str, str]]) -> dict[str, str]:
    """Read what is said in recordings.

    Args:
        path: a csv file with the columns file_path and text; or a folder with such a metadata.csv,
            or with a .txt for each recording.
        match: maps recordings to those of the given names that are theirs.

    Returns:
        The text of each recording that has one.

    Raises:
        UserError: it cannot be read.
    """
    table = path / "metadata.csv" if path.is_dir() else path
    try:
        if path.is_dir() and not table.is_file():
            found = [x.relative_to(path).as_posix() for x in sorted(path.rglob("*.txt"))]
            return {k: (path / x).read_text("utf-8-sig") for k, x in match(found).items()}
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file_path", "text"} <= set(reader.fieldnames or ()):
                raise UserError(
                    f"--text {printable(table)} needs the columns file_path and text"
                    + (": add them, or remove it so that .txt files count" if path.is_dir() else "")
                )
            texts = {row["file_path"]: row["text"] or "" for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--text {printable(path)} cannot be read: {error}") from error
    return {name: texts[x] for name, x in match(list(texts)).items()}
