"""The cleaner that changes nothing: for copies of speech, which show what a vocoder can do."""

from torch import Tensor

from open_miipher.cleaners.base import Cleaner


class Untouched(Cleaner):
    """Gives the encoder's own features; it has no weights and no place in a configuration."""

    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode; see `Cleaner.forward`."""
        features: tuple[Tensor, Tensor] = self.encoder(waveform, lengths, statistics)
        return features
