"""Where speech and its text can be cut together: at a pause that stands where a mark does."""

import re

import numpy as np

_MARK = re.compile(r"[.,;:!?…—–)\]\"”»、。，；！？]+(?=\s|$)|(?<=[、。，；！？])|\s[-–—]\s")
_STEP_SECONDS = 0.02
_SHORTEST_PAUSE = 0.14  # s; what closes a plosive is shorter
_BELOW_SPEECH_DB = 30.0  # under the loudest tenth of the frames
_NEAR_SECONDS = 0.35  # of the place that the text's share gives
_SHORTEST_SECONDS = 0.5  # of what is kept


def cut_at_pause(
    waveform: np.ndarray, sample_rate: int, text: str, most_samples: int
) -> tuple[str, int] | None:
    """Cut long speech and its text where both can be.

    Without an alignment, a mark of punctuation is expected at its share of the text's letters, as
    if speech was even. A cut is made only where that mark is the only one near a pause, and the
    pause the only one near the mark, by 0.35 s; of several such places, at the last that fits. The
    rest is left out.

    Args:
        waveform: (samples,), longer than `most_samples`.
        sample_rate: in Hz.
        text: that it says.
        most_samples: that may be kept.

    Returns:
        The text up to the mark, with it, and the samples up to the middle of the pause; None: there
        is no such place.
    """
    whole = len(text.strip())
    ends = [m.end() for m in _MARK.finditer(text) if text[m.end() :].strip()]
    marks = [len(waveform) * len(text[:end].strip()) / whole for end in ends]
    pauses = _pauses(waveform, sample_rate)
    near = _NEAR_SECONDS * sample_rate
    for end, mark in reversed(list(zip(ends, marks, strict=True))):
        found = [pause for pause in pauses if abs(pause - mark) <= near]
        if len(found) != 1 or sum(abs(found[0] - other) <= near for other in marks) != 1:
            continue
        if _SHORTEST_SECONDS * sample_rate <= found[0] <= most_samples:
            return text[:end].strip(), found[0]
    return None


def _pauses(waveform: np.ndarray, sample_rate: int) -> list[int]:
    """Return the middles of the pauses inside speech, in samples."""
    step = round(_STEP_SECONDS * sample_rate)
    frames = waveform[: len(waveform) // step * step].reshape(-1, step)
    power = np.square(frames, dtype=np.float64).mean(1) + 1e-12
    quiet = power < np.quantile(power, 0.9) * 10 ** (-_BELOW_SPEECH_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    return [
        int((start + end) * step // 2)
        for start, end in edges.reshape(-1, 2).tolist()
        if start > 0 and end < len(quiet) and (end - start) * _STEP_SECONDS >= _SHORTEST_PAUSE
    ]
