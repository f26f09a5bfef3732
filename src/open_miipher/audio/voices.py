"""How alike two voices are, by a network that knows voices (the package resemblyzer)."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from open_miipher.base.errors import UserError

_LEAST_SAMPLES = 8000  # of speech, at its 16 kHz


def check_voices() -> None:
    """See that the package is here, without the seconds that importing it takes.

    Raises:
        UserError: it is not.
    """
    if find_spec("resemblyzer") is None:
        raise UserError(
            "speakers are compared by resemblyzer, which is not installed: "
            "pip install '.[evaluation]'"
        )


@cache
def load_voices() -> Any:
    """Return the network, which runs on the CPU.

    Raises:
        ImportError: resemblyzer is not installed.
    """
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def likeness(first: np.ndarray, second: np.ndarray, sample_rate: int) -> float | None:
    """Return the cosine of two voices, 1 for the same; None with less than 0.5 s of speech.

    Args:
        first: (samples,) of floats.
        second: likewise, of any length.
        sample_rate: of both, in Hz.

    Raises:
        ImportError: resemblyzer is not installed.
    """
    from resemblyzer import preprocess_wav

    network = load_voices()
    if not (np.any(first) and np.any(second)):
        return None
    # Levels are made alike, and pauses taken out.
    voices = [preprocess_wav(x, source_sr=sample_rate) for x in (first, second)]
    if min(len(voice) for voice in voices) < _LEAST_SAMPLES:
        return None
    one, other = (network.embed_utterance(voice) for voice in voices)
    return float(one @ other)
