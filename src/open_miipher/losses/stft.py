"""Distance between the magnitudes of short-time Fourier transforms at several resolutions."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError
from open_miipher.base.precision import in_float32


@dataclass
class MultiResolutionSTFTConfig:
    """Resolutions in samples, one entry each; the defaults are WaveFit's.

    Koizumi et al., "WaveFit" (SLT 2022, arXiv 2210.01029). In the logarithm, magnitudes far below
    `floor_db` (of a full-scale sine) have no weight. The default equals that of the distance which
    validation measures. A much lower floor would make float32's rounding count, which is about
    -140 dB of a transform's loudest bin.
    """

    fft_sizes: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    win_lengths: list[int] = field(default_factory=lambda: [360, 900, 1800])
    hop_lengths: list[int] = field(default_factory=lambda: [80, 150, 300])
    floor_db: float = -100.0


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence and log-magnitude distance (Yamamoto et al., arXiv 1910.11480)."""

    def __init__(self, config: MultiResolutionSTFTConfig) -> None:
        super().__init__()
        sizes = (config.fft_sizes, config.win_lengths, config.hop_lengths)
        if not config.fft_sizes or len({len(values) for values in sizes}) != 1:
            raise UserError(
                "fft_sizes, win_lengths and hop_lengths of the STFT loss need one entry a "
                f"resolution each, not {', '.join(str(len(values)) for values in sizes)}"
            )
        for fft_size, win_length, hop_length in zip(*sizes, strict=True):
            if not 0 < hop_length <= win_length <= fft_size:
                raise UserError(
                    f"an STFT loss of hop_length {hop_length}, win_length {win_length} and "
                    f"fft_size {fft_size}: each must be above 0 and at most the next"
                )
        self.config = config
        for win_length in config.win_lengths:
            window = torch.hann_window(win_length)
            self.register_buffer(f"window_{win_length}", window, persistent=False)

    def forward(self, target: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        """Compare waveforms; they are padded with zeros.

        Convergence is ‖|S| - |Ŝ|‖ / ‖|S|‖ (Frobenius), magnitude the mean of |log|S| - log|Ŝ||.
        Both are computed for each sample and resolution, then averaged. A target whose root mean
        square is below twice the floor is silence; its convergence is 0.

        Args:
            target: (batch, samples).
            estimate: (…, batch, samples), for example all iterations of a vocoder, stacked.

        Returns:
            `stft_convergence` and `stft_magnitude`, float32 scalars.
        """
        convergences, distances = [], []
        with in_float32(target.device):
            for resolution in zip(
                self.config.fft_sizes,
                self.config.win_lengths,
                self.config.hop_lengths,
                strict=True,
            ):
                floor = self._floor(resolution[1])
                reference = self._magnitude(target, *resolution, floor)
                magnitude = self._magnitude(estimate, *resolution, floor)
                norm = reference.square().mean(dim=(-2, -1)).sqrt()
                ratio = _norm(reference - magnitude) / norm
                convergences.append(torch.where(norm < 2 * floor, 0.0, ratio).mean())
                distances.append((reference.log() - magnitude.log()).abs().mean())
        return {
            "stft_convergence": torch.stack(convergences).mean(),
            "stft_magnitude": torch.stack(distances).mean(),
        }

    def _floor(self, win_length: int) -> float:
        """Return the magnitude that a sine at `floor_db` has in the centre of a bin."""
        return 10 ** (self.config.floor_db / 20) * win_length / 4  # half the Hann window's sum

    def _magnitude(
        self, waveform: Tensor, fft_size: int, win_length: int, hop: int, floor: float
    ) -> Tensor:
        """(…, samples) -> (…, bins, frames) float32: √(|S|² + floor²).

        This is smooth. With a clamp, the logarithm's gradient would jump from 0 to 1 / floor, and
        the gradient of |S| would depend on the phase of a negligible value.
        """
        spectrum = torch.stft(
            waveform.float().flatten(0, -2),
            fft_size,
            hop,
            win_length,
            self.get_buffer(f"window_{win_length}"),
            pad_mode="constant",
            return_complex=True,
        )
        power = fourier.power(torch.view_as_real(spectrum))
        return (power + floor**2).sqrt().unflatten(0, waveform.shape[:-1])


def _norm(x: Tensor) -> Tensor:
    """Root mean square over (bins, frames), with gradient 0 where x is 0."""
    return x.square().mean(dim=(-2, -1)).clamp_min(1e-16).sqrt()
