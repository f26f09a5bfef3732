"""Distances between waveforms in compressed spectra, where the target has a band to look at."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError
from open_miipher.base.precision import in_float32

COMPRESSED_LOSSES = ("magnitude", "complex", "log_spectrum", "log_mel")
_POWER = 0.3
# Of the loudest bin. The rounding to 16 bits lies above it, what resampling lets through below.
_EMPTY_DB = -105.0
# Resampling and codecs fade out below the end of the band: that is nothing to learn.
_FADING = 0.09  # share of the band, as soxr's HQ
_WHOLE = 0.95  # a band that reaches so far counts as whole
_USUAL = 0.75  # share of frames: a bin that is empty in so many is outside the band
_SMALLEST_POWER = 1e-10  # of a full-scale sine: -100 dB, which keeps gradients bounded
_LOG_FLOOR_DB = -80.0  # of a full-scale sine, in both logarithmic distances


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
    """Distances of magnitudes and complex spectra, to the power 0.3, of log spectra and log-mel.

    The first two are mean squares and look at what is loud. The logarithmic ones see pauses and
    missing bands as well: the log-spectral distance (in dB), which weighs every bin alike, and the
    log-mel distance, which does not depend on the phases within a mel band.

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
            `magnitude`, `complex`, `log_spectrum` and `log_mel`, each the mean over samples of a
            mean over frames and bins (of `log_spectrum`: the root mean square over bins).
        """
        sizes = sorted(self.config.n_ffts, reverse=True)
        with in_float32(target.device):
            wanted, given = self._spectrum(target, sizes[0]), self._spectrum(estimate, sizes[0])
            is_valid = _valid_frames(lengths, wanted.shape[1], sizes[0])
            top = top_of_band(fourier.power(wanted), is_valid)
            log_mel = self._log_mel(wanted, given, is_valid, top)
            distances = [_distances(wanted, given, is_valid, top)]
            for size in sizes[1:]:
                wanted, given = self._spectrum(target, size), self._spectrum(estimate, size)
                is_valid = _valid_frames(lengths, wanted.shape[1], size)
                distances.append(_distances(wanted, given, is_valid, top))
        magnitude, complex_, log_spectrum = torch.stack(distances).mean((0, 2))
        return {
            "magnitude": magnitude,
            "complex": complex_,
            "log_spectrum": log_spectrum,
            "log_mel": log_mel.mean(),
        }

    def _log_mel(self, wanted: Tensor, given: Tensor, is_valid: Tensor, top: Tensor) -> Tensor:
        """Return the distance of each sample's log-mel spectra, (batch,)."""
        seen = _seen(is_valid, top, wanted.shape[2])
        floor = 10 ** (_LOG_FLOOR_DB / 20)
        wanted, given = (
            ((_magnitude(x) * seen) @ self.get_buffer("mel") + floor).log() for x in (wanted, given)
        )
        return (wanted - given).abs().mean(2).sum(1) / is_valid.sum(1)

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


def _valid_frames(lengths: Tensor, num_frames: int, size: int) -> Tensor:
    """Return which frames are centred inside each sample: (batch, frames) bool."""
    centres = torch.arange(num_frames, device=lengths.device) * (size // 2)
    return centres < lengths[:, None]


def _seen(is_valid: Tensor, top: Tensor, num_bins: int) -> Tensor:
    """Return which frames and bins count: (batch, frames, bins), 1 or 0."""
    places = torch.linspace(0, 1, num_bins, device=top.device)
    return (is_valid[:, :, None] & (places <= top[:, None])[:, None, :]).float()


def _magnitude(spectrum: Tensor) -> Tensor:
    """(batch, frames, bins, 2) -> (batch, frames, bins).

    Not abs(): near 0 its gradient depends on the phase of a negligible value.
    """
    return (fourier.power(spectrum) + _SMALLEST_POWER).sqrt()


def _distances(wanted: Tensor, given: Tensor, is_valid: Tensor, top: Tensor) -> Tensor:
    """Return the distances of magnitudes, complex spectra and log spectra: (3, batch)."""
    seen = _seen(is_valid, top, wanted.shape[2])
    sizes = _magnitude(wanted), _magnitude(given)
    powers = [(_POWER * x.log()).exp() for x in sizes]  # faster than x**_POWER, backward too
    shrunk = [
        x * (power / size)[..., None]
        for x, power, size in zip((wanted, given), powers, sizes, strict=True)
    ]
    magnitude = (powers[0] - powers[1]).square()
    complex_ = fourier.power(shrunk[0] - shrunk[1])
    count = seen.sum((1, 2))
    floor = 10 ** (_LOG_FLOOR_DB / 20)
    level = [20 * (size + floor).log10() for size in sizes]
    # Of each frame over its bins; the small number keeps the root's gradient finite.
    squares = ((level[0] - level[1]).square() * seen).sum(2) / seen.sum(2).clamp_min(1)
    roots = ((squares + 1e-4).sqrt() - 1e-2) * is_valid
    log_spectrum = roots.sum(1) / is_valid.sum(1)
    means = [(x * seen).sum((1, 2)) / count for x in (magnitude, complex_)]
    return torch.stack([*means, log_spectrum])


def top_of_band(energy: Tensor, is_valid: Tensor) -> Tensor:
    """Find the highest frequency that a clip has, as a share of half the sample rate.

    Args:
        energy: (batch, frames, bins), squared magnitudes.
        is_valid: (batch, frames) bool.

    Returns:
        (batch,) from 0 to 1, without the stretch in which a band that ends early fades out; 1 for a
        silent clip.
    """
    # Not the mean: where a crop begins or ends in the middle of a sound, all bins have energy.
    falling = energy.detach().masked_fill(~is_valid[:, :, None], -1.0).sort(1, descending=True)
    rank = ((1 - _USUAL) * is_valid.sum(1)).long()
    usual = falling.values[torch.arange(len(rank), device=rank.device), rank]
    is_there = usual > usual.amax(1, keepdim=True) * 10 ** (_EMPTY_DB / 10)
    places = torch.linspace(0, 1, energy.shape[2], device=energy.device)
    top = torch.where(is_there.any(1), (places * is_there).amax(1), 1.0)
    return torch.where(top < _WHOLE, top * (1 - _FADING), 1.0)
