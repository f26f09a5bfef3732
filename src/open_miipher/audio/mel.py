"""Log-mel spectra at a fixed frame rate, and the way back to magnitudes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.base.precision import in_float32


@dataclass
class MelConfig:
    """A mel front end; the defaults are WaveFit's (Koizumi et al., SLT 2022, arXiv 2210.01029).

    Lengths in samples, frequencies in Hz; `floor` is the smallest mel magnitude.
    """

    sample_rate: int = 24000
    n_fft: int = 2048
    win_length: int = 1200
    hop_length: int = 300
    n_mels: int = 128
    f_min: float = 20.0
    f_max: float = 12000.0
    floor: float = 1e-5


class LogMel(nn.Module):
    """Natural logarithm of the mel magnitude: log(max(basis · |STFT|, floor)), in float32.

    The mel scale is HTK's, 2595 · log10(1 + f / 700), with triangles of height 1 (torchaudio's
    defaults). Frame k is centred on sample (k + 1/2) · hop_length and sees zeros outside the
    waveform, so more zeros at its end only add frames at the floor.

    Attributes:
        basis: (n_mels, n_fft / 2 + 1).
    """

    basis: Tensor
    inverse: Tensor
    window: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks  # slow to import

        self.config = config
        basis = melscale_fbanks(
            config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, config.sample_rate
        ).T.contiguous()
        inverse = torch.linalg.pinv(basis.double()).float()
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("inverse", inverse, persistent=False)
        self.register_buffer("window", torch.hann_window(config.win_length), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Analyse waveforms.

        Args:
            waveform: (batch, samples) at the config's sample rate.

        Returns:
            (batch, ceil(samples / hop_length), n_mels) float32.
        """
        with in_float32(waveform.device):
            magnitude = self._stft(waveform.float()).abs()
            mel = self.basis @ magnitude
            return mel.clamp(min=self.config.floor).log().transpose(1, 2)

    def magnitude_from(self, log_mel: Tensor) -> Tensor:
        """Estimate the STFT's magnitude by the pseudo-inverse of the basis.

        Args:
            log_mel: (batch, frames, n_mels), as `forward` gives it.

        Returns:
            (batch, frames, n_fft / 2 + 1) float32, at least 0.
        """
        with in_float32(log_mel.device):
            return (log_mel.float().exp() @ self.inverse.T).clamp(min=0)

    def _stft(self, waveform: Tensor) -> Tensor:
        n_fft, hop_length = self.config.n_fft, self.config.hop_length
        num_samples = waveform.shape[1]
        num_frames = -(-num_samples // hop_length)
        left = n_fft // 2 - hop_length // 2
        right = (num_frames - 1) * hop_length + n_fft - left - num_samples
        return torch.stft(
            nn.functional.pad(waveform, (left, right)),
            n_fft,
            hop_length,
            self.config.win_length,
            self.window,
            center=False,
            return_complex=True,
        )
