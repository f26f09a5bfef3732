"""Text as the model reads it: numbers in words if asked for, then bytes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open_miipher.base.errors import UserError

_END, _FIRST_BYTE = 1, 3  # ByT5's marks; 0 is the padding
_SHOWN = 40  # characters of a text in a message

ABBREVIATIONS = {
    "en": {
        "Mr.": "Mister",
        "Mrs.": "Missis",
        "Ms.": "Miss",
        "Dr.": "Doctor",
        "Prof.": "Professor",
        "Rev.": "Reverend",
        "Hon.": "Honourable",
        "Capt.": "Captain",
        "Col.": "Colonel",
        "Gen.": "General",
        "Lt.": "Lieutenant",
        "Sgt.": "Sergeant",
        "Jr.": "Junior",
        "Sr.": "Senior",
        "vs.": "versus",
        "etc.": "et cetera",
        "e.g.": "for example",
        "i.e.": "that is",
        "&": "and",
        "%": " percent",
    },
    "de": {
        "z.B.": "zum Beispiel",
        "z. B.": "zum Beispiel",
        "d.h.": "das heißt",
        "d. h.": "das heißt",
        "usw.": "und so weiter",
        "bzw.": "beziehungsweise",
        "Dr.": "Doktor",
        "Prof.": "Professor",
        "Nr.": "Nummer",
        "&": "und",
        "%": " Prozent",
    },
}
"""Abbreviations that are written out, by language; of other languages only numbers are."""

# A minus only where no letter or digit stands before it: 1,234,567.8 and 1234567.8, or 1.234.567,8.
_MINUS = r"(?:(?<![\w-])-)?"
_NUMBER = re.compile(rf"{_MINUS}(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?")
_NUMBER_WITH_COMMA = re.compile(rf"{_MINUS}(?:\d{{1,3}}(?:\.\d{{3}})+(?!\d)|\d+)(?:,\d+)?")
_ORDINAL = re.compile(r"\b(\d{1,9})(?:st|nd|rd|th)\b")
_MOST_DIGITS = 15  # of a number that is read as one; longer ones are read digit by digit


def check_language(language: str | None, key: str) -> None:
    """Check that numbers can be written out in a language.

    Args:
        language: as `num2words` calls it (en, de, fr …); None: nothing is to be written out.
        key: the configuration key, for messages.

    Raises:
        UserError: `num2words` is not installed, or has no such language.
    """
    if language is None:
        return
    known = sorted(_num2words().CONVERTER_CLASSES)
    if language not in known:
        raise UserError(
            f"{key}={language} is no language of num2words: choose null, or "
            f"one of {', '.join(known)}"
        )


def normalised(text: str, language: str | None) -> str:
    """Write out numbers and abbreviations, so that text stands as it is spoken.

    Args:
        text: of one utterance.
        language: see `check_language`; None: the text stays as it is.
    """
    if language is None:
        return text
    convert = _num2words().num2words
    own = ABBREVIATIONS.get(language, {})
    for short in sorted(own, key=len, reverse=True):
        start = r"(?<!\w)" if short[0].isalpha() else ""
        text = re.sub(start + re.escape(short), own[short], text)
    has_comma = language.partition("_")[0] not in ("en", "ja", "ko", "th", "zh", "he")
    point, separator = (",", ".") if has_comma else (".", ",")

    def words(match: re.Match[str]) -> str:
        digits = match[0].replace(separator, "").replace(point, ".")
        if len(digits) > _MOST_DIGITS:
            spoken = " ".join(convert(int(d), lang=language) for d in digits if d.isdigit())
        else:
            spoken = str(convert(float(digits) if "." in digits else int(digits), lang=language))
        before = match.string[match.start() - 1 : match.start()]
        return f" {spoken}" if before.isalpha() else spoken

    if language == "en":
        text = _ORDINAL.sub(lambda m: str(convert(int(m[1]), to="ordinal", lang="en")), text)
    text = (_NUMBER_WITH_COMMA if has_comma else _NUMBER).sub(words, text)
    return " ".join(text.split())


def text_problem(text: object, most_bytes: int) -> str | None:
    """Say why a text cannot be spoken; None if it can.

    Args:
        text: what was given.
        most_bytes: in UTF-8.
    """
    if not isinstance(text, str):
        return f"{text!r:.{_SHOWN}} is of type {type(text).__name__}, and no text"
    if not text.strip():
        return "the text is empty"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"the text {text[:_SHOWN]!r} is no Unicode: it holds half a character"
    if size > most_bytes:
        return f"the text {text[:_SHOWN]!r}… has {size} bytes, more than {most_bytes}"
    return None


def text_batch(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the ids of texts.

    Returns:
        (batch, bytes) int64, 0 beyond a text's end; and (batch,) int64, how many each has, with
        the mark of its end.
    """
    ids = [torch.from_numpy(text_ids(text.encode())) for text in texts]
    lengths = torch.tensor([len(own) for own in ids])
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), lengths


def text_ids(text: bytes) -> np.ndarray:
    """Return the ids of one text in UTF-8: (bytes + 1,) int64."""
    return np.append(np.frombuffer(text, np.uint8).astype(np.int64) + _FIRST_BYTE, _END)


def _num2words() -> Any:
    try:
        import num2words
    except ImportError as error:
        raise UserError(
            "numbers are written out by num2words, which is not installed: pip install num2words "
            "(the extra `text`), or leave data.normalize_text=null"
        ) from error
    return num2words
