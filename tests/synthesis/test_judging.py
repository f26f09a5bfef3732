"""What was said is judged by its level, its samples and its length."""

import numpy as np
import pytest

from open_miipher.synthesis.judging import expected_seconds, problem_with

RATE = 16000


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 200 * t)).astype(np.float32)


def test_expected_seconds_are_pauses_and_characters_at_a_usual_speed():
    assert expected_seconds("a" * 30, 15.0) == pytest.approx(0.5 + 2.0)
    assert expected_seconds(" a\n\n  b ", 15.0) == pytest.approx(0.5 + 3 / 15)
    assert expected_seconds("1984", 15.0) == pytest.approx(0.5 + 20 / 15)
    assert expected_seconds("日本語", 15.0) == pytest.approx(0.5 + 9 / 15)
    assert expected_seconds("a" * 30, 10.0) == pytest.approx(0.5 + 3.0)


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(RATE, np.float32), "silent"),
        (tone(1.0, 3e-4), "silent"),
        (np.clip(tone(1.0, 1.5), -1, 1), "clipped"),
        (np.where(np.arange(RATE) == 7, np.nan, tone(1.0)), "NaN"),
        (np.where(np.arange(RATE) == 7, np.inf, tone(1.0)), "infinity"),
        (tone(0.29), "0.29 s"),
        (tone(3.01), "3.01 s"),
    ],
)
def test_what_cannot_be_the_text_is_told_from_what_can(waveform, reason):
    assert reason in (problem_with(waveform, RATE, 1.0) or "")


@pytest.mark.parametrize("seconds", [0.3, 1.0, 3.0])
def test_three_tenths_to_three_times_the_expected_length_is_believed(seconds):
    assert problem_with(tone(seconds), RATE, 1.0) is None


def test_a_few_samples_at_full_scale_are_no_clipping():
    waveform = tone(1.0)
    waveform[:10] = 1.0
    assert problem_with(waveform, RATE, 1.0) is None
