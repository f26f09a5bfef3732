"""Audio files in and out, through soundfile alone."""

from open_miipher.audio.kinds import AUDIO_EXTENSIONS
from open_miipher.audio.reading import (
    LARGEST_SAMPLE,
    AudioError,
    AudioFile,
    AudioInfo,
    AudioReader,
    Encoded,
    probe,
    read,
    read_header,
    shown,
)
from open_miipher.audio.writing import WAV_BYTE_LIMIT, AudioWriter, MemoryWriter, RefusedName

__all__ = [
    "AUDIO_EXTENSIONS",
    "LARGEST_SAMPLE",
    "WAV_BYTE_LIMIT",
    "AudioError",
    "AudioFile",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "Encoded",
    "MemoryWriter",
    "RefusedName",
    "probe",
    "read",
    "read_header",
    "shown",
]
