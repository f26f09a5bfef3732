"""Log-mel features: an encoder without a network and without a download."""

from torch import Tensor, nn

from open_miipher.audio.mel import LogMel, MelConfig
from open_miipher.encoders.base import Encoder


class LogMelEncoder(Encoder):
    """Natural log-mel magnitudes (`audio.mel.LogMel`); in the padding, those of silence."""

    Config = MelConfig
    carries_level = True

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.sample_rate = config.sample_rate
        self.hop_length = config.hop_length
        self.width, self.mel = config.n_mels, config
        self.log_mel = LogMel(config)
        self.freeze(repr(config))

    @property
    def layers(self) -> nn.ModuleList:
        """No blocks."""
        return nn.ModuleList()

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """(batch, frames · hop_length) -> (batch, frames, n_mels); see `Encoder.encode`."""
        return self.log_mel(waveform)
