"""Text to speech: a network that writes a codec's tokens, and what else speaks, by name."""

from open_miipher.base.registry import Registry
from open_miipher.synthesis.sampling import SamplingConfig, sample
from open_miipher.synthesis.token_tts import StackConfig, TokenTTS, TokenTTSConfig

SYNTHESISERS = Registry[TokenTTS]("synthesiser", {"token_tts": TokenTTS})

__all__ = ["SYNTHESISERS", "SamplingConfig", "StackConfig", "TokenTTS", "TokenTTSConfig", "sample"]
