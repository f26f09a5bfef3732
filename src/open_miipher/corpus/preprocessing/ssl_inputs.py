"""What w2v-BERT's own front end makes of a sample, for trainers that read it from the shards."""

import io
from functools import lru_cache
from typing import Any

import numpy as np

from open_miipher.audio.resample import resample

_SAMPLE_RATE = 16000
_FRAME = 320  # samples
_PADDING = 40  # samples before and after: then 20 s give exactly 1000 frames
_SHORTEST = 2 * _FRAME  # else too few windows to take a variance of


def ssl_inputs(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Compute what w2v-BERT 2.0 takes, by the stock extractor.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz.

    Returns:
        An npy file: (frames, 160) float16, 50 frames a second, two at least; zeros fill up the
        waveform's last frame.
    """
    speech = resample(waveform, sample_rate, _SAMPLE_RATE)
    missing = max(-len(speech) % _FRAME, _SHORTEST - len(speech))
    padded = np.pad(speech, (_PADDING, _PADDING + missing))
    features = _extractor()(padded, sampling_rate=_SAMPLE_RATE, return_tensors="np")
    file = io.BytesIO()
    np.save(file, features["input_features"][0].astype(np.float16), allow_pickle=False)
    return file.getvalue()


@lru_cache(maxsize=1)
def _extractor() -> Any:
    from transformers import SeamlessM4TFeatureExtractor  # takes seconds, and few ask for it

    return SeamlessM4TFeatureExtractor()
