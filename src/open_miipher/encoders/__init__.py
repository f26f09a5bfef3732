"""Encoders: waveform in, features out, frozen."""

from open_miipher.base.registry import Registry
from open_miipher.encoders.base import Encoder
from open_miipher.encoders.log_mel import LogMelEncoder
from open_miipher.encoders.speech_model import SpeechModel
from open_miipher.encoders.stft import StftEncoder
from open_miipher.encoders.usm import UsmGemma3n, UsmGemma4

ENCODERS = Registry[Encoder](
    "encoder",
    {
        "log_mel": LogMelEncoder,
        "stft": StftEncoder,
        "transformers": SpeechModel,
        "usm_gemma3n": UsmGemma3n,
        "usm_gemma4": UsmGemma4,
    },
)

__all__ = ["ENCODERS", "Encoder", "LogMelEncoder", "StftEncoder"]
