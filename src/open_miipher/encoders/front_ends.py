"""The mel front ends of pretrained encoders, batched, on the waveform's device.

They agree with the encoders' published feature extractors to 1e-4. Spectra are computed in double
precision: a loud tone leaves some bands empty but for rounding noise, which the logarithm and the
normalisation by a band's own variance would amplify. The cost is negligible beside the encoders'.
"""

import io
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError
from open_miipher.encoders.base import frame_mask
from open_miipher.encoders.statistics import StreamMoments, own_statistics, with_tail

SAMPLE_RATE = 16000
HOP_LENGTH = 160
STANDARDISE_EPS = 1e-7
_SSL_FRAME = 2 * HOP_LENGTH
_SSL_PADDING = 40  # samples before and after: then 20 s give exactly 1000 frames
_SSL_SHORTEST = 2 * _SSL_FRAME  # else there are too few windows to take a variance of


class UsmMel(nn.Module):
    """Log-mel spectra of the universal speech models in Gemma (arXiv 2303.01037).

    The extractors cut frames one sample longer than they use, so there may be one frame less.
    """

    def __init__(
        self,
        window: Tensor,
        fft_length: int,
        f_min: float,
        f_max: float,
        pad_left: int,
        preemphasis: float,
    ) -> None:
        """Make a front end of 128 HTK bands.

        Args:
            window: (frame length,), rounded to single precision as in the extractor. The rounding
                leaks a loud tone into empty bands, so it has to be the same.
            fft_length: points of the transform.
            f_min: lower end of the lowest band, Hz.
            f_max: upper end of the highest band, Hz.
            pad_left: zeros before the waveform.
            preemphasis: coefficient, applied inside each frame (as in HTK); 0 for none.
        """
        super().__init__()
        self.fft_length = fft_length
        self.pad_left = pad_left
        self.preemphasis = preemphasis
        basis = _mel_basis(fft_length, 128, f_min, f_max, "htk")
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("window", window.double(), persistent=False)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> mel magnitudes (batch, frames, 128), float64."""
        padded = nn.functional.pad(waveform.double(), (self.pad_left, 0))
        frames = padded.unfold(1, len(self.window) + 1, HOP_LENGTH)[..., :-1]
        if self.preemphasis:
            frames = _preemphasise(frames, self.preemphasis)
        return torch.fft.rfft(frames * self.window, self.fft_length).abs() @ self.basis


class Gemma4Mel(UsmMel):
    """Frames of 20 ms centred on multiples of 10 ms, log(mel + 1e-3): (batch, frames, 128)."""

    def __init__(self) -> None:
        window = torch.hann_window(320, dtype=torch.float64).float()
        super().__init__(window, 512, 0.0, 8000.0, pad_left=160, preemphasis=0.0)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at 16 kHz -> (batch, (samples - 161) // 160 + 1, 128) float32."""
        return (self.magnitude(waveform) + 1e-3).log().float()


class Gemma3nMel(UsmMel):
    """Pre-emphasised frames of 32 ms from the first sample on, log(max(mel, 1e-5))."""

    def __init__(self) -> None:
        phase = 2 * np.pi * np.arange(512, dtype=np.float32) / 512
        window = torch.from_numpy(0.5 * (1 - np.cos(phase)))
        super().__init__(window, 1024, 125.0, 7600.0, pad_left=0, preemphasis=0.97)

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at 16 kHz -> (batch, (samples - 513) // 160 + 1, 128) float32."""
        return self.magnitude(waveform).clamp(min=1e-5).log().float()


class KaldiMel(nn.Module):
    """Kaldi filter banks as w2v-BERT 2.0 takes them: two normalised frames side by side.

    80 bands on 25 ms Povey windows every 10 ms. Each band is normalised to mean 0 and variance 1
    over the clip, or by given statistics of the signal that the clip was cut from. Frames 2k and
    2k + 1 are joined to 160 values every 20 ms.

    Args:
        lead_samples: zeros before the clip, 0 … 240: the windows begin that much earlier.

    Raises:
        UserError: `lead_samples` is out of range.
    """

    needs_statistics = True
    window_length = 400
    # The last window ends 240 samples after its hop; it is filled with zeros.
    beyond_hop = 240

    def __init__(self, lead_samples: int = 0) -> None:
        super().__init__()
        if not 0 <= lead_samples <= self.beyond_hop:
            raise UserError(
                f"encoder lead_samples={lead_samples} must lie between 0 and {self.beyond_hop}"
            )
        self.padding = lead_samples, self.beyond_hop - lead_samples
        basis = _mel_basis(512, 80, 20.0, 8000.0, "kaldi")
        povey = torch.hann_window(self.window_length, periodic=False, dtype=torch.float64) ** 0.85
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("window", povey, persistent=False)

    def forward(
        self, waveform: Tensor, frame_lengths: Tensor, statistics: Tensor | None = None
    ) -> Tensor:
        """Analyse whole frames.

        Args:
            waveform: (batch, frames · 320) at 16 kHz, zero beyond each clip.
            frame_lengths: (batch,) valid frames of 320 samples.
            statistics: (batch, 160) from `measure`; None: each clip's own.

        Returns:
            (batch, frames, 160) float32, zero beyond `frame_lengths`.
        """
        log_mel = self.log_mel(nn.functional.pad(waveform, self.padding))
        if statistics is None:
            statistics = own_statistics(log_mel, 2 * frame_lengths, correction=1)
        mean, variance = statistics[:, None].chunk(2, dim=-1)
        mask = frame_mask(2 * frame_lengths, log_mel.shape[1])[:, :, None]
        normalised = (log_mel - mean) * mask / (variance + 1e-7).sqrt()
        return normalised.float().unflatten(1, (-1, 2)).flatten(2)

    def measure(self, blocks: Iterable[Tensor]) -> Tensor:
        """(rows, n) blocks of whole signals -> (rows, 160) float64, for `forward`."""
        moments = StreamMoments(self.log_mel, self.window_length, HOP_LENGTH)
        lead, tail = self.padding
        for number, block in enumerate(with_tail(blocks, 2 * HOP_LENGTH, tail)):
            moments.push(nn.functional.pad(block, (0 if number else lead, 0)))
        variance = moments.covariance(correction=1).diagonal(dim1=1, dim2=2)
        # If a band never changes, rounding may make its variance negative.
        return torch.cat([moments.mean(), variance.clamp(min=0.0)], dim=1)

    def log_mel(self, samples: Tensor) -> Tensor:
        """(batch, samples) -> (batch, (samples - 400) // 160 + 1, 80) float64, not normalised."""
        frames = (samples.double() * 2**15).unfold(1, self.window_length, HOP_LENGTH)
        frames = _preemphasise(frames - frames.mean(-1, keepdim=True), 0.97)
        power = torch.fft.rfft(frames * self.window, 512).abs().square()
        # Kaldi's floor: float32's machine epsilon.
        return (power @ self.basis).clamp(min=torch.finfo(torch.float32).eps).log()


def ssl_inputs(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Compute what w2v-BERT 2.0 takes, by the stock extractor, for trainers that read it.

    Args:
        waveform: (samples,) float32.
        sample_rate: in Hz.

    Returns:
        An npy file: (frames, 160) float16, 50 frames a second, two at least; zeros fill up the
        waveform's last frame.
    """
    speech = resample(waveform, sample_rate, SAMPLE_RATE)
    missing = max(-len(speech) % _SSL_FRAME, _SSL_SHORTEST - len(speech))
    padded = np.pad(speech, (_SSL_PADDING, _SSL_PADDING + missing))
    features = _stock_extractor()(padded, sampling_rate=SAMPLE_RATE, return_tensors="np")
    file = io.BytesIO()
    np.save(file, features["input_features"][0].astype(np.float16), allow_pickle=False)
    return file.getvalue()


@lru_cache(maxsize=1)
def _stock_extractor() -> Any:
    from transformers import SeamlessM4TFeatureExtractor  # takes seconds, and few ask for it

    return SeamlessM4TFeatureExtractor()


def standardise(waveform: Tensor, lengths: Tensor, statistics: Tensor | None = None) -> Tensor:
    """Normalise each clip to mean 0 and variance 1, as wav2vec 2.0's extractor does.

    Args:
        waveform: (batch, samples), zero beyond `lengths`.
        lengths: (batch,) samples to normalise over.
        statistics: (batch, 2) mean and variance to normalise by; None: each clip's own.

    Returns:
        (batch, samples), zero beyond `lengths`.
    """
    if statistics is None:
        statistics = own_statistics(waveform.double()[:, :, None], lengths)
    mean, variance = statistics.chunk(2, dim=1)
    mask = frame_mask(lengths, waveform.shape[1])
    return ((waveform - mean) * mask / (variance + STANDARDISE_EPS).sqrt()).float()


def _preemphasise(frames: Tensor, coefficient: float) -> Tensor:
    first = frames[..., :1] * (1 - coefficient)
    return torch.cat([first, frames[..., 1:] - coefficient * frames[..., :-1]], dim=-1)


def _mel_basis(fft_length: int, num_bands: int, f_min: float, f_max: float, scale: str) -> Tensor:
    """(bins, bands), float64."""
    # Imported here, because this package is also imported where no pretrained model is used.
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        # It warns of empty bands: Gemma 4's lowest bands are narrower than its bins, as intended.
        warnings.simplefilter("ignore")
        basis = mel_filter_bank(
            fft_length // 2 + 1,
            num_bands,
            f_min,
            f_max,
            SAMPLE_RATE,
            mel_scale=scale,
            triangularize_in_mel_space=scale == "kaldi",
        )
    return torch.from_numpy(np.ascontiguousarray(basis))
