"""The gain of WaveFit's iterations, and the noise that the first one starts from.

Koizumi et al., "WaveFit" (SLT 2022, arXiv 2210.01029), section 4.3, for features that carry power;
Karita et al., "Miipher-2" (WASPAA 2025, arXiv 2505.04457) for those that do not; Zhou et al.,
"WaveNeXt 2" (ICASSP 2026, arXiv 2605.25506) for none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.audio import fourier
from open_miipher.audio.mel import LogMel, MelConfig

PEAK = 0.9
SMALLEST_PEAK = 1e-5  # quieter signals do not reach the full peak; silence stays silent
SMALLEST_POWER = 1e-8  # added to mean |STFT|²; white noise at -106 dBFS has this much
NUM_CEPSTRAL_COEFFICIENTS = 24
MOMENTUM = 0.99  # of Griffin-Lim steps, as Perraudin et al. recommend


def at_peak_of(whole: Tensor, piece: Tensor) -> Tensor:
    """Scale a piece by the gain that brings the whole to peak 0.9; a quiet piece stays quiet.

    Args:
        whole: (batch, samples).
        piece: (batch, samples of the piece).
    """
    return piece * (PEAK / whole.abs().amax(dim=-1).clamp_min(SMALLEST_PEAK))[:, None]


class PeakGain(nn.Module):
    """y = 0.9 z / max|z| for each sample; the start is the noise itself.

    Attributes:
        restores_level: whether the output has the true level.
        scale: size of the waveforms between iterations; the network works on them divided by it.
    """

    restores_level = False
    scale = 1.0

    def levels(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the peak that each sample shall have: (batch,)."""
        return features.new_full(features.shape[:1], PEAK, dtype=torch.float32)

    def start(self, noise: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) standard normal -> the same."""
        return noise

    def forward(self, waveform: Tensor, levels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) float32, levels (batch,) -> (batch, samples) at those peaks."""
        peaks = waveform.abs().amax(dim=-1).clamp_min(SMALLEST_PEAK)
        return waveform * (levels / peaks)[:, None]

    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """See `at_peak_of`."""
        return at_peak_of(whole, clean)


class PowerGain(nn.Module):
    """y = √(P_c / P_z) z for each sample, where P_c is the power that its log-mel implies.

    P is the mean of |STFT|² over all frames and bins (of the two-sided spectrum). The printed
    formula lacks the root. Each sample of a batch has one gain, so each chunk of a file has its
    own. P_c comes from the pseudo-inverse of the mel basis. It smooths the magnitudes, so P_c is
    below the true power: by 0.05-0.2 dB on clean speech, 0.7 dB on white noise, 4 dB on a sine at
    8 kHz. A log-mel at its floor gives silence.

    Its methods take a mask of the frames that there are, (batch, frames) bool; None: all. What they
    are given beyond a clip's end must be zeros.

    Args:
        config: the mel front end that the features come from.
        griffin_lim_steps: Griffin-Lim steps from the first noise towards the log-mel's magnitudes.

    Attributes:
        restores_level: whether the output has the true level.
        scale: size of the waveforms between iterations (speech at -26 dBFS). The network works on
            waveforms divided by it; otherwise a step of the optimiser would be large compared with
            the signal.
    """

    restores_level = True
    scale = 0.05
    window: Tensor

    def __init__(self, config: MelConfig, griffin_lim_steps: int = 0) -> None:
        super().__init__()
        self.griffin_lim_steps = griffin_lim_steps
        self.log_mel = LogMel(config)
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        window = torch.hann_window(config.win_length, dtype=torch.float32)
        self.register_buffer("window", window, persistent=False)

    @torch.no_grad()
    def levels(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the power that log-mel features (batch, frames, n_mels) imply: (batch,)."""
        powers = self.log_mel.magnitude_from(features).square()
        two_sided = 2 * powers.sum(dim=-1) - powers[..., 0] - powers[..., -1]
        mean = two_sided.mean(-1) if mask is None else (two_sided * mask).sum(-1) / mask.sum(-1)
        return mean / self.n_fft

    def forward(self, waveform: Tensor, levels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) float32, levels (batch,) -> (batch, samples) with those powers."""
        # By Parseval's theorem, the power of all frames is the power of the samples, each weighted
        # by the windows that cover it: no transform is needed.
        num_frames = waveform.shape[1] // self.hop_length
        count = num_frames if mask is None else mask.sum(-1)
        powers = (waveform.square() * self._coverage(num_frames, mask)).sum(dim=-1) / count
        return waveform * (levels.sqrt() * torch.rsqrt(powers + SMALLEST_POWER))[:, None]

    def target(self, clean: Tensor, whole: Tensor) -> Tensor:
        """(batch, samples) -> the same: outputs have the true level."""
        return clean

    @torch.no_grad()
    def start(self, noise: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Give white noise the spectral envelope of the log-mel.

        Koizumi et al., "SpecGrad" (Interspeech 2022, arXiv 2203.16749): y = G⁺ M G ε. G is the
        short-time Fourier transform. M is, for each frame, the minimum-phase filter of the
        envelope, smoothed to 24 cepstral coefficients. M includes the level, so the result at a
        sample depends only on the frames near it.

        The paper stops here. Each following step of Griffin and Lim (1984), y ← G⁺ |S| Gy / |Gy|,
        adds the harmonics that the mel resolves, which a network needs long to learn. Each step
        extrapolates Gy by its last change (Perraudin et al., "A fast Griffin-Lim algorithm", 2013),
        which has the effect of twice as many steps.

        Args:
            noise: (batch, frames * hop_length) standard normal.
            features: (batch, frames, n_mels) log-mel.
            mask: (batch, frames) bool.

        Returns:
            (batch, frames * hop_length) float32.
        """
        magnitudes = self.log_mel.magnitude_from(features).clamp_min(self.log_mel.config.floor)
        filtered = self._transform(noise.float()) * self._filters(magnitudes)
        waveform = self._inverse(filtered, mask)
        before = None
        for _ in range(self.griffin_lim_steps):
            spectrum = self._transform(waveform)
            ahead = spectrum if before is None else spectrum + MOMENTUM * (spectrum - before)
            waveform = self._inverse(
                ahead * (magnitudes / fourier.magnitude(ahead).clamp_min(1e-12)), mask
            )
            before = spectrum
        return waveform

    def _filters(self, magnitudes: Tensor) -> Tensor:
        """Return minimum-phase filters of smoothed magnitudes, (batch, frames, bins) both."""
        # White noise of variance 1 has mean |STFT|² = Σ window².
        log_filters = torch.log(magnitudes / self.window.square().sum().sqrt())
        cepstra = fourier.irfft(log_filters, self.n_fft)[..., :NUM_CEPSTRAL_COEFFICIENTS]
        # Folding the even cepstrum onto its causal half gives the minimum phase.
        causal = torch.cat([cepstra[..., :1], 2 * cepstra[..., 1:]], dim=-1)
        return fourier.exp(fourier.rfft(causal, self.n_fft))

    def _transform(self, waveform: Tensor) -> Tensor:
        """G: (batch, frames * hop_length) -> (batch, frames, bins)."""
        size = len(self.window)
        before = (size - self.hop_length) // 2
        padded = functional.pad(waveform, (before, size - self.hop_length - before))
        frames = padded.unfold(-1, size, self.hop_length) * self.window
        return fourier.rfft(frames, self.n_fft)

    def _inverse(self, spectrum: Tensor, mask: Tensor | None) -> Tensor:
        """G⁺: (batch, frames, bins) -> (batch, frames * hop_length)."""
        frames = fourier.irfft(spectrum, self.n_fft)[..., : len(self.window)] * self.window
        if mask is None:
            return self._overlap_add(frames) / self._coverage(frames.shape[1], None)
        samples = mask.repeat_interleave(self.hop_length, dim=1)
        coverage = self._coverage(frames.shape[1], mask).masked_fill(~samples, 1.0)
        return self._overlap_add(frames * mask[..., None]) * samples / coverage

    def _coverage(self, num_frames: int, mask: Tensor | None) -> Tensor:
        """Return the sum of the squared windows over each sample: (1 or batch, samples)."""
        windows = self.window.square().expand(1, num_frames, -1)
        return self._overlap_add(windows if mask is None else windows * mask[..., None])

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum frames (batch, frames, win_length), each centred on its hop: (batch, samples)."""
        _, num_frames, size = frames.shape
        summed = fourier.overlap_add(frames, self.hop_length)
        return summed.narrow(1, (size - self.hop_length) // 2, num_frames * self.hop_length)


class NoGain(PowerGain):
    """Leaves waveforms as they are: the network learns their level by the losses."""

    def levels(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what is looked at by nobody: (batch,)."""
        return features.new_ones(features.shape[:1], dtype=torch.float32)

    def forward(self, waveform: Tensor, levels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, samples) -> the same."""
        return waveform
