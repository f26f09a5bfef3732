"""Audio files in and out, through soundfile alone."""

from open_miipher.audio.reading import (
    AUDIO_EXTENSIONS,
    AudioError,
    AudioFile,
    AudioInfo,
    AudioReader,
    Encoded,
    printable,
    probe,
    read,
    read_header,
)
from open_miipher.audio.writing import AudioWriter

__all__ = [
    "AUDIO_EXTENSIONS",
    "AudioError",
    "AudioFile",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "Encoded",
    "printable",
    "probe",
    "read",
    "read_header",
]
