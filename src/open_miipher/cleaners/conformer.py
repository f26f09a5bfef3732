"""A small conformer that cleans log-mel features."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.base.precision import as_stored
from open_miipher.cleaners.base import Cleaner
from open_miipher.encoders import Encoder
from open_miipher.encoders.base import frame_mask
from open_miipher.layers.conformer import ConformerBlock


@dataclass
class ConformerCleanerConfig:
    """Sizes of the network.

    Attributes:
        width: values per frame inside the blocks.
        num_blocks: conformer blocks.
        num_heads: attention heads of a block.
        kernel_size: frames of a block's convolution, odd.
        feed_forward_width: hidden width of a block's feed-forward modules.
        dropout: probability.
        feature_mean: subtracted from the features before the network.
        feature_scale: divides the features before the network and multiplies its output.
    """

    width: int = 128
    num_blocks: int = 2
    num_heads: int = 4
    kernel_size: int = 15
    feed_forward_width: int = 512
    dropout: float = 0.0
    # The natural log of mel magnitudes of ordinary speech is about -2 ± 3.
    feature_mean: float = -2.0
    feature_scale: float = 3.0


class ConformerCleaner(Cleaner):
    """Conformer blocks over the whole clip; their output is added to the encoder's features.

    At the first step it is the identity, because the last linear layer is zero. Nothing is added in
    the padding of a clip.
    """

    Config = ConformerCleanerConfig

    def __init__(self, encoder: Encoder, config: ConformerCleanerConfig) -> None:
        super().__init__(encoder)
        self.feature_mean = config.feature_mean
        self.feature_scale = config.feature_scale
        self.project_in = nn.Linear(encoder.width, config.width)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                config.width,
                config.num_heads,
                config.kernel_size,
                config.feed_forward_width,
                config.dropout,
            )
            for _ in range(config.num_blocks)
        )
        self.project_out = nn.Linear(config.width, encoder.width)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode and clean; see `Cleaner.forward`."""
        with torch.no_grad():
            features, frame_lengths = self.encoder(waveform, lengths, statistics)
        mask = None if lengths is None else frame_mask(frame_lengths, features.shape[1])
        scaled = (features - self.feature_mean) / self.feature_scale
        hidden = self.project_in(as_stored(scaled, self.project_in))
        for block in self.blocks:
            hidden = block(hidden, mask)
        change = (self.project_out(hidden) * self.feature_scale).to(features.dtype)
        if mask is not None:
            change = change.masked_fill(~mask[:, :, None], 0.0)
        return features + change, frame_lengths
