"""What a conditional backbone hears."""

from torch import Tensor, nn

from open_miipher.audio.mel import LogMel, MelConfig

_CENTRE, _SPREAD = -5.0, 5.0  # natural log-mels of speech lie between ln 1e-5 = -11.5 and about 3


class MelCondition(nn.Module):
    """The log-mel of a waveform, brought to about ±1.

    Args:
        config: the front end.
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.log_mel = LogMel(config)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, bands, ⌈samples / hop⌉), on the waveform's device."""
        return self.scaled(self.log_mel(waveform).transpose(1, 2))

    def scaled(self, log_mel: Tensor) -> Tensor:
        """Bring a log-mel, as `LogMel` makes it, to about ±1."""
        return (log_mel - _CENTRE) / _SPREAD
