"""The strided convolutions that wav2vec 2.0, HuBERT and WavLM begin with, right for a batch."""

from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.encoders.base import frame_mask
from open_miipher.encoders.front_ends import standardise


class ConvolutionalFrontEnd(nn.Module):
    """A `feature_extractor` of the wav2vec 2.0 family, called so that clips do not mix.

    The base models normalise the first convolution's output over time, the whole row of a batch
    with its padding; here each clip is normalised over its own frames, which is what the stock
    module does with the clip alone.
    """

    def __init__(self, extractor: Any, do_normalise: bool) -> None:
        """Take over the convolutions.

        Args:
            extractor: with `conv_layers`, each with `conv` and `activation`.
            do_normalise: whether clips are first brought to mean 0 and variance 1.
        """
        super().__init__()
        self.conv_layers = extractor.conv_layers
        self.do_normalise = do_normalise
        self.hop_length, self.receptive_field = 1, 1
        for layer in self.conv_layers:
            self.receptive_field += (layer.conv.kernel_size[0] - 1) * self.hop_length
            self.hop_length *= layer.conv.stride[0]

    def forward(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        """Convolve whole frames.

        Args:
            waveform: (batch, frames · hop_length), zero beyond each clip.
            frame_lengths: (batch,) valid frames of each clip.

        Returns:
            (batch, frames, channels).
        """
        beyond_hop = self.receptive_field - self.hop_length
        lengths = frame_lengths * self.hop_length + beyond_hop
        waveform = nn.functional.pad(waveform, (0, beyond_hop))
        if self.do_normalise:
            waveform = standardise(waveform, lengths)
        first, *rest = self.conv_layers
        # In reduced precision the samples' rounding would be noise at -50 dB.
        with torch.autocast(waveform.device.type, enabled=False):
            if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
                hidden = first.conv(waveform[:, None])
                num_valid = (lengths - first.conv.kernel_size[0]) // first.conv.stride[0] + 1
                hidden = first.activation(_normalise_channels(hidden, num_valid, first.layer_norm))
            else:
                hidden = first(waveform[:, None])
        for layer in rest:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)


def _normalise_channels(x: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel a group, over each row's first `lengths` frames.

    Args:
        x: (batch, channels, frames).
        lengths: (batch,).
        norm: as many groups as channels.

    Returns:
        (batch, channels, frames).
    """
    mask = frame_mask(lengths, x.shape[2])[:, None, :]
    count = lengths[:, None, None]
    mean = (x * mask).sum(2, keepdim=True) / count
    variance = ((x - mean) * mask).square().sum(2, keepdim=True) / count
    scale = norm.weight[:, None] * (variance + norm.eps).rsqrt()
    return (x - mean) * scale + norm.bias[:, None]
