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
    loudest = max(float(image.max()) for row in images for image in row)
    top = 10 * np.ceil(loudest / 10) if loudest > -RANGE_DB else 0.0
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
                cmap="magma",
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
