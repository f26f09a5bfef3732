"""DAC's discriminator: it judges each band of complex spectra at several resolutions."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.base.precision import in_float32
from open_miipher.discriminators.convolution import convolution_2d

NEGATIVE_SLOPE = 0.1
STRIDES = (1, 2, 2, 2)  # in the bins, of all convolutions of a band but the last


@dataclass
class MultiBandStftConfig:
    """Sizes; the defaults are DAC's.

    Attributes:
        win_lengths: samples of the window and of the transform, one sub-discriminator for each; the
            hop is a quarter of it.
        band_edges: borders of the bands as shares of the spectrum, in rising order.
        channels: channels of the convolutions.
    """

    win_lengths: list[int] = field(default_factory=lambda: [2048, 1024, 512])
    band_edges: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
    channels: int = 32


class MultiBandStftDiscriminator(nn.Module):
    """Kumar et al., "Improved RVQGAN" (NeurIPS 2023, arXiv 2306.06546), section 3.4.

    Real and imaginary parts are two channels. Each band has its own convolutions, and one more
    convolution goes over all bands. Weight normalisation, no statistics of the batch. The waveform
    is padded with zeros, so any length from 1 sample works. Unlike in DAC, the level of a waveform
    is not changed first.
    """

    Config = MultiBandStftConfig

    def __init__(self, config: MultiBandStftConfig) -> None:
        super().__init__()
        edges = config.band_edges
        rising = all(low < high for low, high in pairwise(edges))
        if not config.win_lengths or min(config.win_lengths) < 4 or config.channels < 1:
            raise UserError(
                f"the multi_band_stft discriminator's win_lengths={config.win_lengths} must each "
                f"be at least 4, and its channels={config.channels} at least 1"
            )
        if len(edges) < 2 or not rising or edges[0] < 0 or edges[-1] > 1:
            raise UserError(
                f"the multi_band_stft discriminator's band_edges={edges} must rise from 0 to 1"
            )
        self.resolutions = nn.ModuleList(
            StftDiscriminator(win_length, config) for win_length in config.win_lengths
        )

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        """Judge waveforms.

        Args:
            waveform: (batch, samples).

        Returns:
            For each resolution, the feature maps of its bands one after the other, each (batch,
            channels, frames, bins); the logits over all bands are the last one.
        """
        return [resolution(waveform) for resolution in self.resolutions]


class StftDiscriminator(nn.Module):
    """One resolution: (batch, samples) -> feature maps, logits last."""

    window: Tensor

    def __init__(self, win_length: int, config: MultiBandStftConfig) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)
        num_bins = win_length // 2 + 1
        places = [int(edge * num_bins) for edge in config.band_edges]
        self.bounds = list(pairwise(places))
        if any(low == high for low, high in self.bounds):
            raise UserError(
                f"the multi_band_stft discriminator's band_edges={config.band_edges} leave a band "
                f"empty in a window of {win_length}; use fewer or a longer window"
            )
        width = config.channels
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    *(
                        convolution_2d(
                            width if number else 2, width, (3, 9), stride, is_first=number == 0
                        )
                        for number, stride in enumerate(STRIDES)
                    ),
                    convolution_2d(width, width, (3, 3)),
                ]
            )
            for _ in self.bounds
        )
        self.to_logits = convolution_2d(width, 1, (3, 3))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """(batch, samples) -> maps (batch, channels, frames, bins)."""
        spectrum = self._spectrum(waveform)
        maps, judged = [], []
        for (low, high), layers in zip(self.bounds, self.bands, strict=True):
            x = spectrum[..., low:high]
            for layer in layers:
                x = functional.leaky_relu(layer(x), NEGATIVE_SLOPE)
                maps.append(x)
            judged.append(x)
        return [*maps, self.to_logits(torch.cat(judged, dim=-1))]

    def _spectrum(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 2, frames, bins) float32."""
        with in_float32(waveform.device):
            spectrum = torch.stft(
                waveform.float(),
                len(self.window),
                len(self.window) // 4,
                window=self.window,
                pad_mode="constant",
                return_complex=True,
            )
            return torch.view_as_real(spectrum).permute(0, 3, 2, 1)
