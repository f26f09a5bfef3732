"""Neural audio codecs: waveforms to tokens and back."""

from open_miipher.base.registry import Registry
from open_miipher.codec.audio_tokenizer import AudioTokenizer, CodecConfig
from open_miipher.codec.network import Encodec

__all__ = ["CODECS", "AudioTokenizer", "CodecConfig", "Encodec"]

CODECS = Registry[Encodec]("codec", {"encodec": Encodec})
