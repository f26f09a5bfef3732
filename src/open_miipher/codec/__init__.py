"""Neural audio codecs: waveforms to tokens and back."""

from open_miipher.codec.audio_tokenizer import AudioTokenizer, CodecConfig

__all__ = ["AudioTokenizer", "CodecConfig"]
