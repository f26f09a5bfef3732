"""Spectrogram pictures that can be compared by eye: one dB scale, one colour range, real axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_SECONDS = 0.032
RANGE_DB = 80.0
CHANGE_DB = 20.0
"""A change of this much, up or down, has the last colour of `change_image`."""

_LEVEL_COLOURS = "magma"
_CHANGE_COLOURS = ("#7cc4ff", "#1f6fc4", "#101014", "#c4641f", "#ffb766")  # less … more


@dataclass
class Panel:
    """One spectrogram: `waveform` (samples,) at `sample_rate`, full scale 1."""

    title: str
    waveform: np.ndarray
    sample_rate: int


def spectrogram_db(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the power spectrogram in dB; a full-scale sine peaks at 0 dB.

    Args:
        waveform: (samples,), at least one.
        sample_rate: in Hz.

    Returns:
        (bins, frames) float32 from a Hann window of 32 ms every 8 ms, floored at -160 dB.
    """
    n_fft = max(4, round(WINDOW_SECONDS * sample_rate / 4) * 4)
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)),
        n_fft,
        hop_length=n_fft // 4,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    amplitude = spectrum.abs() / (window.sum() / 2)
    return (20 * torch.log10(amplitude.clamp_min(1e-8))).numpy()


@dataclass(frozen=True)
class Grid:
    """The time and frequency that images of several sounds share, pixel by pixel.

    Attributes:
        seconds: of the longest sound.
        highest_hz: half the highest sample rate.
        columns: pixels of time.
        rows: pixels of frequency.
    """

    seconds: float
    highest_hz: float
    columns: int
    rows: int = 192

    @classmethod
    def of(cls, panels: Sequence[Panel], most_columns: int = 1200) -> "Grid":
        """Return the grid on which all these sounds fit, a column for each 8 ms or more."""
        seconds = max(len(panel.waveform) / panel.sample_rate for panel in panels)
        columns = round(min(most_columns, max(1.0, seconds / (WINDOW_SECONDS / 4))))
        return cls(seconds, max(panel.sample_rate for panel in panels) / 2, columns)


def on_grid(panel: Panel, grid: Grid) -> np.ndarray:
    """Return a spectrogram in dB on a grid: each pixel is the mean power of what lies in it.

    Args:
        panel: the sound.
        grid: from `Grid.of`, of sounds with this one among them.

    Returns:
        (rows, columns) float32, the lowest frequency first; NaN where this sound has nothing:
        after its end, and above half its rate.
    """
    power = 10 ** (spectrogram_db(panel.waveform, panel.sample_rate).astype(np.float64) / 10)
    seconds = len(panel.waveform) / panel.sample_rate
    columns = max(1, round(grid.columns * seconds / grid.seconds))
    rows = max(1, round(grid.rows * panel.sample_rate / 2 / grid.highest_hz))
    image = np.full((grid.rows, grid.columns), np.nan, np.float32)
    pooled = _pooled(_pooled(power, rows, axis=0), columns, axis=1)
    image[:rows, :columns] = 10 * np.log10(pooled)
    return image


def _pooled(values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Return `count` means of neighbours along an axis; where there are fewer, they repeat."""
    starts = np.arange(count) * values.shape[axis] // count
    sizes = np.maximum(1, np.diff(starts, append=values.shape[axis]))
    sums = np.add.reduceat(values, starts, axis=axis)
    return sums / np.expand_dims(sizes, 1 - axis)


def top_of(images: Sequence[np.ndarray], percentile: float = 100) -> float:
    """Return the highest level of a scale that all images share: the next ten dB up.

    Args:
        images: in dB, NaN where there is nothing.
        percentile: of each image; below 100, a few loud points do not make all others dark.
    """
    loudest = max(float(np.nanpercentile(image, percentile)) for image in images)
    return 10 * float(np.ceil(loudest / 10)) if loudest > -RANGE_DB else 0.0


def level_image(decibels: np.ndarray, top: float) -> np.ndarray:
    """Colour a spectrogram, `RANGE_DB` down from `top`; what is not there (NaN) is grey.

    Args:
        decibels: (rows, columns), from `on_grid`.
        top: dB.

    Returns:
        (rows, columns, 3) uint8, the highest frequency first.
    """
    return _coloured((decibels - top) / RANGE_DB + 1, level_colours(256))


def change_image(after: np.ndarray, before: np.ndarray, top: float) -> np.ndarray:
    """Colour what one sound has more (orange) or less (blue) than another; black: no change.

    Levels below the range of the scale count as its lowest: what nobody can see or hear is no
    change.

    Args:
        after: (rows, columns) in dB, from `on_grid`.
        before: likewise.
        top: dB; as for `level_image`.

    Returns:
        (rows, columns, 3) uint8, the highest frequency first; grey where either is missing.
    """
    floor = top - RANGE_DB
    change = np.maximum(after, floor) - np.maximum(before, floor)
    return _coloured(change / (2 * CHANGE_DB) + 0.5, change_colours(255))


def _coloured(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Give 0 … 1 a colour from the first to the last, and NaN grey; flip the rows."""
    known = np.isfinite(values)
    steps = np.clip(np.where(known, values, 0), 0, 1) * (len(colours) - 1)
    image = colours[np.rint(steps).astype(int)]
    image[~known] = 96
    return np.ascontiguousarray(image[::-1])


def level_colours(count: int) -> np.ndarray:
    """Return the colours of `level_image`, the lowest level first: (count, 3) uint8."""
    from matplotlib import colormaps  # slow to import

    return (colormaps[_LEVEL_COLOURS](np.linspace(0, 1, count))[:, :3] * 255).astype(np.uint8)


def change_colours(count: int) -> np.ndarray:
    """Return the colours of `change_image`, from less to more: (count, 3) uint8."""
    stops = np.array([list(bytes.fromhex(colour[1:])) for colour in _CHANGE_COLOURS])
    place = np.linspace(0, len(stops) - 1, count)
    colours = [np.interp(place, np.arange(len(stops)), channel) for channel in stops.T]
    return np.rint(np.stack(colours, axis=1)).astype(np.uint8)


def save_spectrograms(path: Path, rows: Sequence[Sequence[Panel]]) -> None:
    """Write `draw_spectrograms` of these rows as a PNG.

    Raises:
        ValueError: no panels, or rows of different lengths.
        OSError: the picture cannot be written.
    """
    draw_spectrograms(rows).savefig(path, dpi=110)


def draw_spectrograms(rows: Sequence[Sequence[Panel]]) -> "Figure":
    """Draw a row for each sound, its panels (before, after, clean …) side by side.

    All panels share one colour range, `RANGE_DB` down from the loudest point of the picture; the
    panels of a row share their time axis, and all share the frequency axis.

    Args:
        rows: panels; every row has as many as the first.

    Raises:
        ValueError: no panels, or rows of different lengths.
    """
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("every row needs the same number of panels, at least one")
    from matplotlib.figure import Figure  # slow to import

    images = [[spectrogram_db(panel.waveform, panel.sample_rate) for panel in row] for row in rows]
    top = top_of([image for row in images for image in row])
    highest = max(panel.sample_rate for row in rows for panel in row) / 2000

    columns = len(rows[0])
    figure = Figure(figsize=(4.2 * columns + 1.2, 2.6 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, sharey=True)
    for y, (row, row_images) in enumerate(zip(rows, images, strict=True)):
        longest = max(len(panel.waveform) / panel.sample_rate for panel in row)
        for x, (panel, image) in enumerate(zip(row, row_images, strict=True)):
            axis = axes[y, x]
            mesh = axis.imshow(
                image,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(0, len(panel.waveform) / panel.sample_rate, 0, panel.sample_rate / 2000),
                vmin=top - RANGE_DB,
                vmax=top,
                cmap=_LEVEL_COLOURS,
            )
            axis.set(xlim=(0, longest), ylim=(0, highest))
            axis.set_title(panel.title, fontsize=9, parse_math=False)  # names may hold a $
            axis.tick_params(labelsize=8)
            if y == len(rows) - 1:
                axis.set_xlabel("time (s)", fontsize=8)
            if x == 0:
                axis.set_ylabel("frequency (kHz)", fontsize=8)
    colour_bar = figure.colorbar(mesh, ax=axes, shrink=0.9, pad=0.01)
    colour_bar.set_label("dB of a full-scale sine", fontsize=8)
    colour_bar.ax.tick_params(labelsize=8)
    return figure
