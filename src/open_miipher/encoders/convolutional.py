"""The first, strided convolutions of wav2vec 2.0, HuBERT and WavLM, correct for padded batches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.base.precision import as_stored, in_float32, stay_in_float32
from open_miipher.encoders.front_ends import STANDARDISE_EPS, standardise
from open_miipher.encoders.statistics import StreamMoments, own_statistics, with_tail


class ConvolutionalFrontEnd(nn.Module):
    """A `feature_extractor` of the wav2vec 2.0 family in which a clip's padding has no influence.

    The base models normalise the first convolution's output over the whole row of a batch, padding
    included. Here each clip is normalised over its own frames, as the stock module does with a
    batch of one, or by given statistics of the signal that the clip was cut from.
    """

    def __init__(self, extractor: Any, do_normalise: bool) -> None:
        """Take the convolutions of a stock module.

        Args:
            extractor: has `conv_layers`, each with `conv` and `activation`.
            do_normalise: whether clips are first normalised to mean 0 and variance 1.
        """
        super().__init__()
        self.conv_layers = extractor.conv_layers
        stay_in_float32(self.conv_layers[0])
        self.do_normalise = do_normalise
        self.hop_length, self.receptive_field = 1, 1
        for layer in self.conv_layers:
            self.receptive_field += (layer.conv.kernel_size[0] - 1) * self.hop_length
            self.hop_length *= layer.conv.stride[0]
        self.beyond_hop = self.receptive_field - self.hop_length
        norm = getattr(self.conv_layers[0], "layer_norm", None)
        self.norms_channels = isinstance(norm, nn.GroupNorm)
        self.needs_statistics = do_normalise or self.norms_channels

    def forward(
        self, waveform: Tensor, frame_lengths: Tensor, statistics: Tensor | None = None
    ) -> Tensor:
        """Convolve whole frames.

        Args:
            waveform: (batch, frames · hop_length), zero beyond each clip.
            frame_lengths: (batch,) valid frames of each clip.
            statistics: (batch, numbers) from `measure`; None: each clip's own statistics.

        Returns:
            (batch, frames, channels).
        """
        lengths = frame_lengths * self.hop_length + self.beyond_hop
        waveform = nn.functional.pad(waveform, (0, self.beyond_hop))
        of_samples, of_channels = (
            (None, None) if statistics is None else (statistics[:, :2], statistics[:, 2:])
        )
        if self.do_normalise:
            waveform = standardise(waveform, lengths, of_samples)
        first, *rest = self.conv_layers
        # In reduced precision, rounding of the samples would be noise at -50 dB.
        with in_float32(waveform.device):
            if self.norms_channels:
                hidden = first.conv(waveform[:, None])
                if of_channels is None:
                    num_valid = (lengths - first.conv.kernel_size[0]) // first.conv.stride[0] + 1
                    of_channels = own_statistics(hidden.mT, num_valid)
                normed = _normalise_channels(hidden, of_channels, first.layer_norm)
                hidden = first.activation(normed)
            else:
                hidden = first(waveform[:, None])
        for layer in rest:
            hidden = layer(as_stored(hidden, layer))
        return hidden.transpose(1, 2)

    def measure(self, blocks: Iterable[Tensor]) -> Tensor:
        """Compute the statistics of whole signals, for `forward`.

        The first convolution is linear. So the mean and variance of its channels, for the signal
        after `standardise`, follow from the mean and covariance of the samples under its kernel.

        Args:
            blocks: (rows, n), at least one sample together.

        Returns:
            (rows, 2 + 2 · channels) float64: mean and variance of the samples, then of each channel
            of the first convolution.
        """
        conv = self.conv_layers[0].conv
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        samples = StreamMoments(lambda x: x[:, :, None], window=1, hop=1)
        windows = StreamMoments(lambda x: x.unfold(1, kernel, stride), kernel, stride)
        for block in with_tail(blocks, self.hop_length, self.beyond_hop):
            samples.push(block)
            windows.push(block)
        mean, variance = samples.mean(), samples.covariance()[:, 0].clamp(min=0.0)
        shift = mean if self.do_normalise else torch.zeros_like(mean)
        gain = (variance + STANDARDISE_EPS).rsqrt() if self.do_normalise else 1.0 + shift
        weight = conv.weight[:, 0].double()
        of_channels = gain * (windows.mean() - shift) @ weight.T
        if conv.bias is not None:
            of_channels = of_channels + conv.bias
        power = (weight @ windows.covariance() * weight).sum(-1).clamp(min=0.0)
        return torch.cat([mean, variance, of_channels, gain.square() * power], dim=1)


def _normalise_channels(x: Tensor, statistics: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel in each group, by given means and variances.

    Args:
        x: (batch, channels, frames).
        statistics: (batch, 2 · channels), means, then variances.
        norm: has as many groups as channels.

    Returns:
        (batch, channels, frames).
    """
    mean, variance = statistics.to(x.dtype)[:, :, None].chunk(2, dim=1)
    scale = norm.weight[:, None] * (variance + norm.eps).rsqrt()
    return (x - mean) * scale + norm.bias[:, None]
