"""Text as the model reads it, and where speech is cut with it."""

import sys

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.synthesis.pauses import cut_at_pause
from open_miipher.synthesis.text import check_language, normalised, text_batch, text_problem

RATE = 16000


def test_ids_are_byt5_s():
    """Bytes plus 3, with 1 at the end and 0 beyond it."""
    text, lengths = text_batch(["ab", "ü"])
    assert text.tolist() == [[100, 101, 1], [0xC3 + 3, 0xBC + 3, 1]]
    assert lengths.tolist() == [3, 3]
    text, lengths = text_batch(["a", "abc"])
    assert text[0].tolist() == [100, 1, 0, 0]
    assert lengths.tolist() == [2, 4]
    assert text.dtype == torch.int64


def test_ids_are_those_of_transformers_own_tokenizer():
    from transformers import ByT5Tokenizer

    given = ["Hello, World.", "Grüße 你好"]
    wanted = ByT5Tokenizer()(given, padding=True)["input_ids"]
    assert text_batch(given)[0].tolist() == wanted


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("Mr. Fox has 3 dogs & 2.5 cats.", "en", "Mister Fox has three dogs and two point five"),
        ("In 1,234,567 days, 50% of it.", "en", "million, two hundred and thirty-four thousand"),
        ("the A4 paper, -7 degrees", "en", "the A four paper, minus seven degrees"),
        ("on the 21st", "en", "on the twenty-first"),
        ("at 10-20 km", "en", "at ten-twenty km"),
        ("12345678901234567890", "en", "one two three four five six seven eight nine zero one"),
        ("Das sind z.B. 1.000,5 Meter", "de", "zum Beispiel eintausend Komma fünf Meter"),
        ("il y a 21 chats", "fr", "il y a vingt et un chats"),
        ("3 dogs", None, "3 dogs"),
        ("plain words, etceteras.", "en", "plain words, etceteras."),
    ],
)
def test_numbers_and_abbreviations_are_written_out(text, language, words):
    pytest.importorskip("num2words")
    assert words in normalised(text, language)


def test_what_language_is_known_is_said(monkeypatch):
    pytest.importorskip("num2words")
    check_language("pt_BR", "data.normalize_text")
    check_language(None, "data.normalize_text")
    with pytest.raises(UserError, match=r"data\.normalize_text=english is no language .* en, "):
        check_language("english", "data.normalize_text")
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(UserError, match=r"pip install num2words \(the extra `text`\)"):
        check_language("en", "data.normalize_text")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "None is of type NoneType, and no text"),
        (7.5, "7.5 is of type float, and no text"),
        (["a"], "is of type list, and no text"),
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        ("ü" * 50, "has 100 bytes, more than 80"),
        ("a\ud800", "holds half a character"),
    ],
)
def test_what_is_no_text_is_said_in_a_sentence(text, words):
    assert words in text_problem(text, 80)
    assert text_problem("fine, ü.", 80) is None


def speech(*parts: float) -> np.ndarray:
    """Noise and silence in turn, of these lengths in seconds."""
    rng = np.random.default_rng(0)
    pieces = [
        rng.normal(0, (0.1, 1e-4)[k % 2], round(seconds * RATE)) for k, seconds in enumerate(parts)
    ]
    return np.concatenate(pieces).astype(np.float32)


def test_a_cut_is_at_the_pause_of_the_last_mark_that_fits():
    text = "One two three four, five six seven eight; nine ten eleven twelve."
    waveform = speech(0.95, 0.2, 1.0, 0.2, 1.2)
    assert cut_at_pause(waveform, RATE, text, 3 * RATE)[0].endswith("eight;")
    cut, end = cut_at_pause(waveform, RATE, text, 2 * RATE)
    assert cut == "One two three four,"
    assert end / RATE == pytest.approx(1.05, abs=0.03)
    assert cut_at_pause(waveform, RATE, text, RATE) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One two three four five six seven eight nine ten eleven.", (1.0, 0.2, 1.0)),  # no mark
        ("One two three four, five six seven eight.", (2.2,)),  # no pause
        ("One two three four, five six seven eight.", (1.0, 0.05, 1.0)),  # a plosive's
        ("One, two, three four five six seven eight.", (0.4, 0.2, 1.6)),  # two marks at a pause
        ("One two three four, five six seven eight.", (0.8, 0.2, 0.1, 0.2, 0.9)),  # two pauses
        ("One, two three four five six seven eight nine.", (1.6, 0.2, 0.4)),  # far from its mark
    ],
)
def test_where_it_is_not_clear_what_goes_together_nothing_is_cut(text, parts):
    assert cut_at_pause(speech(*parts), RATE, text, round(1.9 * RATE)) is None
