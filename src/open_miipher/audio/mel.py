"""Log-mel spectra at a fixed frame rate, the way back to magnitudes, and files of them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from open_miipher.audio import fourier
from open_miipher.base.errors import UserError, report
from open_miipher.base.paths import printable
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

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range; the message lists all of them.
        """
        hop, window, n_fft = self.hop_length, self.win_length, self.n_fft
        rules = {
            f"sample_rate={self.sample_rate} must be at least 1": self.sample_rate >= 1,
            f"hop_length={hop}, win_length={window} and n_fft={n_fft} must be above 0, and none "
            "longer than the next": 0 < hop <= window <= n_fft,
            f"n_mels={self.n_mels} must be at least 1": self.n_mels >= 1,
            f"f_min={self.f_min:g} and f_max={self.f_max:g} must rise from 0 or more": (
                0 <= self.f_min < self.f_max
            ),
            f"floor={self.floor:g} must be above 0": self.floor > 0,
        }
        report([f"a mel front end's {rule}" for rule, kept in rules.items() if not kept])


class LogMel(nn.Module):
    """Natural logarithm of the mel magnitude: log(max(basis · |STFT|, floor)), in float32.

    The mel scale is HTK's, 2595 · log10(1 + f / 700), with triangles of height 1 (torchaudio's
    defaults). Frame k is centred on sample (k + 1/2) · hop_length and sees zeros outside the
    waveform, so more zeros at its end only add frames at the floor.

    Attributes:
        basis: (n_mels, n_fft / 2 + 1).

    Raises:
        UserError: `f_max` is above half the sample rate. A config may have such a one as long as
            nothing hears it: that of an unconditional diffusion at a low rate has.
    """

    basis: Tensor
    inverse: Tensor
    window: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        if config.f_max > config.sample_rate / 2:
            raise UserError(
                f"a mel front end's f_max={config.f_max:g} is above half its sample rate, "
                f"{config.sample_rate / 2:g} Hz: lower it"
            )
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
            mel = self.basis @ fourier.magnitude(self._stft(waveform.float()))
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


FRONT_END_NAME = "mel.json"
"""In a folder of mels, what dataset/script/make_mels.py made them by: a `MelConfig`."""


def check_front_end(folder: Path, config: MelConfig) -> None:
    """See that a folder's mels are of a front end, if it is noted there what they are of.

    Args:
        folder: of mels, not looked into; it may be missing.
        config: what they must be of.

    Raises:
        UserError: they are of another one, or the note is damaged.
    """
    note = folder / FRONT_END_NAME
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{printable(note)} cannot be read: {error.strerror}") from error
    except ValueError:  # no UTF-8, or no JSON
        noted = None
    if not isinstance(noted, dict):
        raise UserError(
            f"{printable(note)} is damaged; make the mels anew in another folder with "
            "dataset/script/make_mels.py, or delete the note if you know that they fit"
        )
    ours = asdict(config)
    differing = [f"{k} is {noted.get(k)}, not {ours[k]}" for k in ours if noted.get(k) != ours[k]]
    if differing:
        raise UserError(
            f"{printable(folder)} holds mels of another front end than the model's: "
            f"{', '.join(differing)}; make the model's in another folder with "
            "dataset/script/make_mels.py"
        )


class MelError(UserError):
    """A file is no log-mel spectrum of the kind that is wanted; the message names it."""


def read_mel(path: Path, num_bands: int) -> np.ndarray:
    """Read a log-mel spectrum, as dataset/script/make_mels.py or another program wrote it.

    Args:
        path: a .npy file of floats, (bands, frames); nothing pickled is read.
        num_bands: that it must have.

    Returns:
        (bands, frames), mapped from the file and not looked at yet.

    Raises:
        MelError: it is missing, damaged, or something else.
    """
    name = printable(path)
    try:
        mel = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MelError(f"{name} cannot be read: {reason}") from error
    except ValueError as error:
        raise MelError(
            f"{name} is damaged, or holds Python objects, which are never loaded: write a plain "
            "array of floats with numpy.save"
        ) from error
    if not isinstance(mel, np.ndarray) or mel.ndim != 2 or mel.dtype.kind != "f":
        found = f"{mel.dtype} of shape {mel.shape}" if isinstance(mel, np.ndarray) else "several"
        raise MelError(f"{name} holds {found}: a mel is one array of floats, (bands, frames)")
    if len(mel) != num_bands:
        raise MelError(
            f"{name} has {len(mel)} bands and {mel.shape[1]} frames: (bands, frames) with "
            f"{num_bands} bands are wanted"
        )
    return mel
