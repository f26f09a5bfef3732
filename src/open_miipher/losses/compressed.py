"""Distances between waveforms in compressed spectra, where the target has a band to look at."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError

COMPRESSED_LOSSES = ("magnitude", "complex", "log_mel")
_POWER = 0.3
# Of the loudest bin. The rounding to 16 bits lies above it, what resampling lets through below.
_EMPTY_DB = -105.0
_USUAL = 0.75  # share of frames: a bin that is empty in so many is outside the band
_SMALLEST_POWER = 1e-10  # of a full-scale sine: -100 dB, which keeps gradients bounded
_MEL_FLOOR = 1e-4  # of a full-scale sine: -80 dB


@dataclass
class CompressedSpectrumConfig:
    """Resolutions of the distances.

    Attributes:
        n_ffts: samples of each Hann window; hops are half of it.
        n_mels: bands of the log-mel distance, at the longest window.
    """

    n_ffts: list[int] = field(default_factory=lambda: [512, 1536])
    n_mels: int = 80


class CompressedSpectrumLoss(nn.Module):
    """Mean squared distances of magnitudes and of complex spectra, to the power 0.3, and log-mel.

    A target that ends below half the sample rate (recorded at a lower rate, say) says nothing of
    what lies above: bins above the highest that it has are left out. A silent target asks for
    silence in all of them.

    Args:
        sample_rate: in Hz.
        config: resolutions.

    Raises:
        UserError: on construction, a value out of range.
    """

    def __init__(self, sample_rate: int, config: CompressedSpectrumConfig) -> None:
        super().__init__()
        if min(config.n_ffts, default=0) < 4 or config.n_mels < 1:
            raise UserError(
                f"a loss of n_ffts={config.n_ffts} and n_mels={config.n_mels}: give at least one "
                "window of 4 samples and one band"
            )
        from torchaudio.functional import melscale_fbanks  # slow to import

        self.config = config
        for size in config.n_ffts:
            window = torch.hann_window(size)
            window *= 2 / window.sum()  # a full-scale sine has magnitude 1
            self.register_buffer(f"window_{size}", window, persistent=False)
        bins = max(config.n_ffts) // 2 + 1
        mel = melscale_fbanks(bins, 0.0, sample_rate / 2, config.n_mels, sample_rate)
        self.register_buffer("mel", mel, persistent=False)

    def forward(self, target: Tensor, estimate: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Compare waveforms; what lies beyond a sample's length has no influence.

        Args:
            target: (batch, samples), zero beyond `lengths`.
            estimate: (batch, samples), likewise.
            lengths: (batch,) true samples.

        Returns:
            `magnitude`, `complex` and `log_mel`, each the mean over samples of a mean over frames
            and bins.
        """
        with torch.autocast(target.device.type, enabled=False):
            pairs = [self._at(size, target, estimate, lengths) for size in self.config.n_ffts]
        magnitude, complex_, log_mel = (torch.stack(values) for values in zip(*pairs, strict=True))
        longest = self.config.n_ffts.index(max(self.config.n_ffts))
        return {
            "magnitude": magnitude.mean(),
            "complex": complex_.mean(),
            "log_mel": log_mel[longest].mean(),
        }

    def _at(
        self, size: int, target: Tensor, estimate: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three distances of each sample at one resolution, (batch,) each."""
        wanted, given = self._spectrum(target, size), self._spectrum(estimate, size)
        energy = wanted.square().sum(-1)
        frames = torch.arange(energy.shape[1], device=target.device)
        is_valid = frames * (size // 2) < lengths[:, None]
        seen = (is_valid[:, :, None] & band_of(energy, is_valid)[:, None, :]).to(energy.dtype)
        # √(|S|² + ε), not abs(): near 0 its gradient depends on the phase of a negligible value.
        wanted_size, given_size = (
            (x.square().sum(-1) + _SMALLEST_POWER).sqrt() for x in (wanted, given)
        )
        difference = wanted_size**_POWER - given_size**_POWER
        apart = wanted * wanted_size[..., None] ** (_POWER - 1) - given * given_size[..., None] ** (
            _POWER - 1
        )
        count = seen.sum((1, 2))
        magnitude = (difference.square() * seen).sum((1, 2)) / count
        complex_ = (apart.square().sum(-1) * seen).sum((1, 2)) / count
        if size != max(self.config.n_ffts):
            return magnitude, complex_, torch.zeros_like(magnitude)
        wanted_mel, given_mel = (
            ((x * seen) @ self.get_buffer("mel") + _MEL_FLOOR).log()
            for x in (wanted_size, given_size)
        )
        log_mel = (wanted_mel - given_mel).abs().mean(2).sum(1) / is_valid.sum(1)
        return magnitude, complex_, log_mel

    def _spectrum(self, waveform: Tensor, size: int) -> Tensor:
        """(batch, samples) -> (batch, frames, bins, 2) float32."""
        spectrum = torch.stft(
            waveform.float(),
            size,
            size // 2,
            window=self.get_buffer(f"window_{size}"),
            pad_mode="constant",
            return_complex=True,
        )
        return torch.view_as_real(spectrum).transpose(1, 2)


def band_of(energy: Tensor, is_valid: Tensor) -> Tensor:
    """Find the bins up to the highest that a clip has.

    Args:
        energy: (batch, frames, bins), squared magnitudes.
        is_valid: (batch, frames) bool.

    Returns:
        (batch, bins) bool; all True for a silent clip.
    """
    energy = energy.detach().masked_fill(~is_valid[:, :, None], float("nan"))
    # Not the mean: where a crop begins or ends in the middle of a sound, all bins have energy.
    usual = energy.nanquantile(_USUAL, dim=1)
    is_there = usual > usual.amax(1, keepdim=True) * 10 ** (_EMPTY_DB / 10)
    from_above = is_there.flip(1).cumsum(1).flip(1) > 0  # there is one here or above
    return from_above | ~is_there.any(1, keepdim=True)
