"""Small files in every format that is read, made by soundfile."""

import io
from functools import cache

import numpy as np
import soundfile

RATE = 24000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "extensible.wav": ("WAVEX", "PCM_16"),
    "alaw.wav": ("WAV", "ALAW"),
    "gsm.wav": ("WAV", "GSM610"),
    "ima.wav": ("WAV", "IMA_ADPCM"),
    "ms.wav": ("WAV", "MS_ADPCM"),
    "rf64.wav": ("RF64", "PCM_16"),
    "nist.wav": ("NIST", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "ULAW"),
    "caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""soundfile's format and subtype, by a name that tells them and ends like such files do."""


def sound(num_frames: int, num_channels: int = 1) -> np.ndarray:
    """A tone that comes and goes, with a little noise: (frames, channels)."""
    t = np.arange(num_frames) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * t) * (np.sin(2 * np.pi * 3 * t) > 0)
    noisy = tone + 0.01 * np.random.default_rng(0).standard_normal(num_frames)
    return np.stack([noisy / (1 + channel) for channel in range(num_channels)], axis=1)


@cache
def encoded(name: str, num_frames: int = RATE, num_channels: int = 1) -> bytes:
    """Encode that sound; `name` is one of FORMATS."""
    format, subtype = FORMATS[name]
    file = io.BytesIO()
    soundfile.write(file, sound(num_frames, num_channels), RATE, format=format, subtype=subtype)
    return file.getvalue()
