from typing import Any

import pytest
import torch

from open_miipher.audio.mel import MelConfig
from open_miipher.vocoders.wavefit import FixedPoint, PreNetConfig, WaveFit, WaveFitConfig
from open_miipher.vocoders.wavegrad import UNetConfig
from open_miipher.vocoders.wavenext2 import FrameNetworkConfig, WaveNeXt2, WaveNeXt2Config

SIZES: dict[str, Any] = {
    "condition_channels": 8,
    "stem_channels": 4,
    "down_channels": [4, 6],
    "up_channels": [8, 6, 4],
    "up_factors": [5, 3, 2],
    "dilations": [[1, 2, 1, 2]] * 3,
}
WIDTH = 24  # of the features
MEL = MelConfig(
    sample_rate=8000, n_fft=256, win_length=200, hop_length=60, n_mels=WIDTH, f_max=4000.0
)


@pytest.fixture
def make_wavefit():
    """Tiny WaveFits at 8 kHz: `power` with hop 60 from 24 mel bands, `peak` with hop 120."""

    def make(
        gain: str,
        full_rate_film: bool = True,
        fold: int = 2,
        pre_net: PreNetConfig | None = None,
        **keys: Any,
    ) -> WaveFit:
        torch.manual_seed(0)
        sizes = {**SIZES, "up_factors": [5, 3, 4 // fold]}
        generator = UNetConfig(**sizes, full_rate_film=full_rate_film, fold=fold)
        config = WaveFitConfig(
            sample_rate=8000,
            num_iterations=keys.pop("num_iterations", 3),
            gain=gain,
            mel=MEL if gain == "power" else None,
            upsample_factor=1 if gain == "power" else 2,
            generator=generator,
            pre_net=pre_net or PreNetConfig(num_heads=2),
            **keys,
        )
        return WaveFit(WIDTH, 8000 / (60 if gain == "power" else 120), config)

    return make


@pytest.fixture
def make_wavenext2():
    """Tiny WaveNeXt 2s at 8 kHz, from 24 values a frame: hop 60, with gain `peak` twice that."""

    def make(
        gain: str,
        upsample_factor: int | None = None,
        condition_channels: int | None = None,
        **keys: Any,
    ) -> WaveNeXt2:
        torch.manual_seed(0)
        factor = upsample_factor or (2 if gain == "peak" else 1)
        config = WaveNeXt2Config(
            sample_rate=8000,
            num_iterations=keys.pop("num_iterations", 3),
            gain=gain,
            mel=None if gain == "peak" else MEL,
            upsample_factor=factor,
            generator=FrameNetworkConfig(60, 96, condition_channels, 16, 24, 2, 3),
            **keys,
        )
        return WaveNeXt2(WIDTH, 8000 / (60 * factor), config)

    return make


@pytest.fixture
def make_inputs():
    """Features that look like log-mel, and noise."""

    def make(model: FixedPoint, batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(frames)
        features = torch.randn(batch, frames, WIDTH, generator=generator) - 2
        noise = torch.randn(batch, frames * model.hop_length, generator=generator)
        return features, noise

    return make
