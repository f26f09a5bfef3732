"""A small cleaner of complex spectra: convolutions over time and bands, on a CPU's budget."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.precision import as_stored, in_float32, stay_in_float32
from open_miipher.cleaners.base import Cleaner
from open_miipher.encoders import Encoder
from open_miipher.encoders.base import frame_mask
from open_miipher.encoders.stft import StftEncoder

_SMALLEST_LEVEL = 1e-6  # of a compressed spectrum; keeps silence finite
_OUTPUTS = 5  # numbers a bin: mask - 1 (real, imaginary), gains of two copies and of noise


@dataclass
class BandConvolutionConfig:
    """Sizes of the network.

    Attributes:
        width: channels of a band.
        bands: groups of equally wide bands from 0 Hz up, each [bins of a band, number of bands];
            together they cover every bin but the highest. Wider bands see and give coarser detail.
        dilations: frames between the taps of each block's convolution.
        full_band_width: channels of the path that sees all bands at once.
        full_band_dilations: frames between the taps of each of its convolutions.
        level_seconds: the level that the spectrum is normalised by is a mean over so long before
            and after each frame.
    """

    width: int = 48
    bands: list[tuple[int, int]] = field(default_factory=lambda: [(12, 32)])
    dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 1, 2, 4, 8])
    full_band_width: int = 128
    full_band_dilations: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    level_seconds: float = 1.0


class BandConvolution(Cleaner):
    """Masks the compressed spectrum bin by bin, and fills in what is missing.

    What comes out is, in each bin, mask · input + level · (gain₁ · phase₁ + gain₂ · phase₂), the
    phases being those of the bins a quarter and half of the band below, and level · gain₃ for the
    noise that the `istft` vocoder adds. At the first step the mask is 1 and the gains are 0: the
    identity.

    Most of the network works within bands and their neighbours; in its middle one path sees the
    whole spectrum at once. The network sees the spectrum divided by its level, so that the
    waveform's level changes nothing that it does. A frame of the output depends on no more than
    `receptive_frames` frames before and after it: chunks that overlap by twice that agree in their
    middle.

    Args:
        encoder: must be `stft`.
        config: sizes.

    Raises:
        UserError: another encoder, or bands that do not cover its bins.
    """

    Config = BandConvolutionConfig

    def __init__(self, encoder: Encoder, config: BandConvolutionConfig) -> None:
        super().__init__(encoder)
        if not isinstance(encoder, StftEncoder):
            raise UserError("the band_convolution cleaner works on model.encoder.name=stft alone")
        self.num_bins = encoder.config.num_bins
        covered = sum(bins * count for bins, count in config.bands)
        if covered != self.num_bins - 1 or any(min(group) < 1 for group in config.bands):
            raise UserError(
                f"the bands of band_convolution cover {covered} bins, but the encoder's "
                f"n_fft={encoder.config.n_fft} has {self.num_bins - 1} below the highest; change "
                "model.cleaner.bands ([bins, number] of each group)"
            )
        dilations = [*config.dilations, *config.full_band_dilations]
        sizes = [config.width, config.full_band_width, *dilations]
        if min(sizes) < 1 or config.level_seconds <= 0:
            raise UserError(f"all sizes of band_convolution must be above 0: {config}")
        width, self.groups = config.width, config.bands
        num_bands = sum(count for _, count in config.bands)
        # A phase that is copied up goes on from frame to frame if the shift is a multiple of this.
        coherent = encoder.config.n_fft // encoder.config.hop_length
        self.shifts = [round(covered * share / coherent) * coherent for share in (0.25, 0.5)]
        self.level_frames = round(config.level_seconds * encoder.frame_rate)
        self.receptive_frames = self.level_frames + 1 + sum(dilations)
        self.analysis = nn.ModuleList(
            nn.Conv2d(3, width, (3, bins), stride=(1, bins), padding=(1, 0))
            for bins, _ in config.bands
        )
        half = len(config.dilations) // 2
        blocks: list[nn.Module] = [_Block(width, num_bands, d) for d in config.dilations]
        full_band = _FullBand(width * num_bands, config.full_band_width, config.full_band_dilations)
        self.blocks = nn.ModuleList([*blocks[:half], full_band, *blocks[half:]])
        self.join = nn.Conv2d(2 * width, 2 * width, 1)
        self.synthesis = nn.ModuleList(
            nn.Conv2d(2 * width, _OUTPUTS * bins, 1) for bins, _ in config.bands
        )
        stay_in_float32(self.analysis, self.join, self.synthesis)
        for layer in self.synthesis:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, waveform: Tensor, lengths: Tensor | None, statistics: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode and clean; see `Cleaner.forward`.

        Returns:
            Features (batch, frames, 3 · bins) float32 for the `istft` vocoder, and their lengths.
        """
        with torch.no_grad():
            features, frame_lengths = self.encoder(waveform, lengths)
            mask = frame_mask(frame_lengths, features.shape[1])
            # (batch, 3, frames, bins): real, imaginary, noise
            features = features.float().unflatten(2, (3, self.num_bins)).transpose(1, 2)
            level = self._level(features, mask)
            # The frame after a clip's last one still sees its end, were there no mask.
            spectrum = features[:, :2] / level * mask[:, None, :, None]
        with in_float32(waveform.device):
            bands = self._into_bands(spectrum) * mask[:, None, :, None]
        hidden = as_stored(bands, self.blocks)
        for block in self.blocks:
            hidden = block(hidden, mask)
        with in_float32(waveform.device):
            change = self._out_of_bands(torch.cat([hidden.float(), bands], dim=1))
            change = self._filled(spectrum, change) * mask[:, None, :, None]
            cleaned = features + level * change
        return cleaned.transpose(1, 2).flatten(2), frame_lengths

    def _level(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the root mean square around each frame: (batch, 1, frames, 1)."""
        valid = mask[:, None].to(features.dtype)
        energy = features.square().sum(1).mean(2)[:, None] * valid
        size, padding = 2 * self.level_frames + 1, self.level_frames
        energy, count = (
            nn.functional.avg_pool1d(x, size, stride=1, padding=padding) for x in (energy, valid)
        )
        level = (energy / count.clamp_min(1e-3 / size)).sqrt().clamp_min(_SMALLEST_LEVEL)
        return level[..., None]

    def _into_bands(self, spectrum: Tensor) -> Tensor:
        """(batch, 2, frames, bins) -> (batch, width, frames, bands)."""
        magnitude = spectrum.square().sum(1, keepdim=True).sqrt()
        bins = torch.cat([spectrum, magnitude], dim=1)
        sizes = [size * count for size, count in self.groups]
        groups = bins[..., :-1].split(sizes, dim=3)
        return torch.cat([f(x) for f, x in zip(self.analysis, groups, strict=True)], dim=3)

    def _out_of_bands(self, bands: Tensor) -> Tensor:
        """(batch, 2 · width, frames, bands) -> (batch, 5, frames, bins)."""
        joined = nn.functional.silu(self.join(bands))
        groups = joined.split([count for _, count in self.groups], dim=3)
        bins = [
            # (batch, 5 · size, frames, count) -> (batch, 5, frames, count · size)
            f(x).unflatten(1, (_OUTPUTS, -1)).permute(0, 1, 3, 4, 2).flatten(3)
            for f, x in zip(self.synthesis, groups, strict=True)
        ]
        return torch.cat([*bins, bins[-1][..., -1:]], dim=3)  # the highest bin as the one below it

    def _filled(self, spectrum: Tensor, outputs: Tensor) -> Tensor:
        """Return what is added to the spectrum and its noise: (batch, 3, frames, bins).

        Args:
            spectrum: (batch, 2, frames, bins), divided by its level.
            outputs: (batch, 5, frames, bins) of the network: mask - 1 and the gains.
        """
        real, imaginary = spectrum.unbind(1)
        mask_real, mask_imaginary, *copies, noise = outputs.unbind(1)
        added_real = mask_real * real - mask_imaginary * imaginary
        added_imaginary = mask_real * imaginary + mask_imaginary * real
        # Phases alone: a copy of the magnitudes would bring the formants of the lower band along.
        phases = spectrum * (spectrum.square().sum(1, keepdim=True) + 1e-6).rsqrt()
        for gain, shift in zip(copies, self.shifts, strict=True):
            copied = nn.functional.pad(phases[..., :-shift], (shift, 0))
            added_real = added_real + gain * copied[:, 0]
            added_imaginary = added_imaginary + gain * copied[:, 1]
        return torch.stack([added_real, added_imaginary, noise], dim=1)


class _Block(nn.Module):
    """A residual 3 × 3 convolution over time and bands, then linear mixing over all bands."""

    def __init__(self, width: int, num_bands: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=(dilation, 1), dilation=(dilation, 1))
        self.mixing = nn.Linear(num_bands, num_bands, bias=False)
        nn.init.eye_(self.mixing.weight)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, width, frames, bands); mask (batch, frames) of the valid frames."""
        change = nn.functional.silu(self.convolution(hidden))
        return hidden + self.mixing(change) * mask[:, None, :, None]


class _FullBand(nn.Module):
    """All bands of a frame as one vector, followed over time and added to each band again."""

    def __init__(self, width: int, inner_width: int, dilations: list[int]) -> None:
        super().__init__()
        self.join = nn.Conv1d(width, inner_width, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inner_width, inner_width, 3, padding=d, dilation=d) for d in dilations
        )
        self.spread = nn.Conv1d(inner_width, width, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, width, frames, bands); mask (batch, frames) of the valid frames."""
        bands = hidden.shape[3]
        valid = mask[:, None]
        joined = nn.functional.silu(self.join(hidden.transpose(2, 3).flatten(1, 2))) * valid
        for convolution in self.convolutions:
            joined = joined + nn.functional.silu(convolution(joined)) * valid
        change = (self.spread(joined) * valid).unflatten(1, (-1, bands))
        return hidden + change.transpose(2, 3)
