from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from open_miipher.evaluation.spectrograms import Panel, save_spectrograms, spectrogram_db


def sine(frequency: float, sample_rate: int, seconds: float = 0.5) -> np.ndarray:
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.sin(2 * np.pi * frequency * t).astype(np.float32)


@pytest.mark.parametrize("sample_rate", [8_000, 24_000, 44_100])
def test_a_full_scale_sine_peaks_at_0_db_in_its_own_bin(sample_rate: int) -> None:
    image = spectrogram_db(sine(1000.0, sample_rate), sample_rate)
    bins, frames = image.shape
    middle = image[:, frames // 2]
    bin_hz = sample_rate / 2 / (bins - 1)
    assert abs(middle.argmax() * bin_hz - 1000.0) <= bin_hz
    assert middle.max() == pytest.approx(0.0, abs=0.3)


def test_one_sample_and_silence_have_a_spectrogram() -> None:
    assert np.all(spectrogram_db(np.zeros(4800, np.float32), 24_000) == -160)
    assert spectrogram_db(np.ones(1, np.float32), 24_000).shape[1] == 1


def test_panels_share_one_colour_range(tmp_path: Path) -> None:
    loud, quiet = sine(3000.0, 16_000), 0.01 * sine(3000.0, 16_000)
    rows = [[Panel("costs 5$ or 6$", loud, 16_000), Panel("quiet", quiet, 16_000)]]
    save_spectrograms(tmp_path / "picture.png", rows)
    pixels = matplotlib.image.imread(tmp_path / "picture.png")[..., :3].sum(axis=2)
    height, width = pixels.shape
    # The sine's line (3 of 8 kHz): bright on the left, 40 dB darker on the right.
    left = pixels[:, width // 4].copy()
    right = pixels[:, 5 * width // 8]
    line = slice(height // 2, 3 * height // 4)
    assert np.sort(left[line])[-3] > np.sort(right[line])[-3] + 0.5


def test_rows_of_different_lengths_are_refused(tmp_path: Path) -> None:
    panel = Panel("x", sine(100.0, 8000), 8000)
    with pytest.raises(ValueError, match="same number"):
        save_spectrograms(tmp_path / "picture.png", [[panel], [panel, panel]])
    assert list(tmp_path.iterdir()) == []
