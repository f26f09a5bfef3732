from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from open_miipher.evaluation.spectrograms import (
    Grid,
    Panel,
    change_image,
    level_image,
    on_grid,
    save_spectrograms,
    spectrogram_db,
    top_of,
)


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


def test_sounds_of_different_rates_and_lengths_share_one_grid() -> None:
    panels = [Panel("low", sine(3000.0, 8_000, 1.0), 8_000)]
    panels.append(Panel("high", sine(3000.0, 24_000, 2.0), 24_000))
    grid = Grid.of(panels)
    assert (grid.seconds, grid.highest_hz, grid.columns) == (2.0, 12_000.0, 250)
    low, high = (on_grid(panel, grid) for panel in panels)
    assert low.shape == high.shape == (192, 250)
    # 3 of 12 kHz: a quarter up in both.
    assert abs(int(high[:, 60].argmax()) - 48) <= 1
    assert abs(int(np.nanargmax(low[:, 60])) - 48) <= 1
    assert np.isnan(low[64:]).all()  # above 4 kHz
    assert np.isnan(low[:, 125:]).all()  # after 1 s
    assert np.isfinite(low[:64, :125]).all()
    assert np.isfinite(high).all()


def test_a_pixel_is_the_mean_power_of_what_lies_in_it() -> None:
    noise = np.random.default_rng(0).standard_normal(480_000).astype(np.float32)
    panel = Panel("noise", 0.1 * noise, 24_000)
    few, many = (
        10 ** (on_grid(panel, Grid(20.0, 12_000.0, columns, 385)) / 10) for columns in (10, 2500)
    )
    np.testing.assert_allclose(few.mean(), many.mean(), rtol=0.01)
    assert few.std() < 0.1 * few.mean()  # of some 250 values each
    assert many.std() > 0.5 * many.mean()


def test_levels_share_a_scale_and_what_is_missing_is_grey() -> None:
    decibels = np.array([[-20.0, np.nan], [-100.0, -60.0]], np.float32)
    assert top_of([decibels - 5, decibels]) == -20
    image = level_image(decibels, -20.0)
    assert image.shape == (2, 2, 3)
    assert image[1, 1].tolist() == [96, 96, 96]
    darkest, middle, brightest = (int(image[place].sum()) for place in ((0, 0), (0, 1), (1, 0)))
    assert darkest < middle < brightest


def test_more_is_orange_less_is_blue_and_no_change_is_black() -> None:
    before = np.array([[-40.0, -40.0, -40.0, -150.0, np.nan]], np.float32)
    after = np.array([[-30.0, -50.0, -40.0, -110.0, -40.0]], np.float32)
    more, less, same, unheard, missing = change_image(after, before, 0.0)[0].astype(int)
    assert more[0] > more[2] + 60
    assert less[2] > less[0] + 60
    assert same.max() < 30
    assert (unheard == same).all()  # both below the scale's 80 dB
    assert missing.tolist() == [96, 96, 96]
