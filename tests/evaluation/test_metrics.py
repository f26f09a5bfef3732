from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.evaluation.metrics import (
    file_level_db,
    mean_score,
    score_file,
    score_table,
)

RATE = 24_000


def noise(num_samples: int = RATE, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


def test_levels_of_known_signals(tmp_path: Path) -> None:
    t = np.arange(2 * RATE) / RATE
    signals = {
        "sine": (np.sin(2 * np.pi * 100 * t), -3.0103),
        "stereo": (np.full((2 * RATE, 2), 0.1), -20.0),
        "long": (np.full(600_000, 0.5), -6.0206),
    }
    for name, (samples, expected) in signals.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
        seconds, level = file_level_db(tmp_path / f"{name}.wav")
        assert level == pytest.approx(expected, abs=1e-3)
        assert seconds == len(samples) / RATE
    soundfile.write(tmp_path / "silence.wav", np.zeros(10), RATE)
    assert file_level_db(tmp_path / "silence.wav")[1] == float("-inf")


def test_distances_of_equal_quieter_and_other_files(tmp_path: Path) -> None:
    x = noise()
    for name, waveform in (("clean", x), ("quieter", 0.5 * x), ("other", noise(seed=1))):
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE, subtype="FLOAT")
    clean = tmp_path / "clean.wav"
    assert score_file("x", clean, clean, clean).restored_distance == pytest.approx(0, abs=1e-5)
    score = score_file("x", tmp_path / "other.wav", tmp_path / "quieter.wav", clean)
    assert score.restored_distance == pytest.approx(0, abs=1e-3)  # levels do not matter
    assert score.noisy_distance == pytest.approx(7.88, abs=0.4)  # 5.57 dB times the root of 2


def test_files_of_unequal_length_are_refused(tmp_path: Path) -> None:
    for count in (RATE, RATE - 1):
        soundfile.write(tmp_path / f"{count}.wav", noise(count), RATE, subtype="FLOAT")
    whole, short = tmp_path / f"{RATE}.wav", tmp_path / f"{RATE - 1}.wav"
    with pytest.raises(UserError, match="24000 and 23999"):
        score_file("x", whole, short, whole)


def test_score_compares_at_the_clean_rate_and_averages(tmp_path: Path) -> None:
    clean = noise()
    for name, waveform in (("clean", clean), ("noisy", clean + noise(seed=1)), ("same", clean)):
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "double.wav", np.repeat(clean, 2), 2 * RATE, subtype="FLOAT")
    noisy, clean_path = tmp_path / "noisy.wav", tmp_path / "clean.wav"

    exact = score_file("x", noisy, tmp_path / "same.wav", clean_path)
    assert exact.restored_distance == pytest.approx(0.0, abs=1e-5)
    assert exact.noisy_distance is not None
    assert exact.noisy_distance > 2
    assert exact.seconds == 1.0

    resampled = score_file("y", noisy, tmp_path / "double.wav", clean_path)
    mean = mean_score([exact, resampled])
    assert resampled.restored_distance is not None
    assert mean.restored_distance == pytest.approx(resampled.restored_distance / 2, abs=1e-6)
    table = score_table([exact, resampled]).splitlines()
    assert table[-1].startswith("mean")
    assert table[-1].split()[-1] == f"{mean.restored_distance:.2f}"


def test_without_clean_files_there_are_levels_only(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    score = score_file("a", tmp_path / "a.wav", tmp_path / "a.wav", None)
    assert score.noisy_distance is None
    assert score.noisy_level == pytest.approx(-20.0, abs=0.2)
    assert "LSD" not in score_table([score])
