"""Vocoders: features -> waveform. A vocoder is chosen by its name in `VOCODERS`."""

from open_miipher.base.registry import Registry
from open_miipher.vocoders.base import AdversarialGenerator, Vocoder
from open_miipher.vocoders.dac import Dac
from open_miipher.vocoders.diffwave import DiffWave
from open_miipher.vocoders.istft import Istft
from open_miipher.vocoders.wavefit import WaveFit
from open_miipher.vocoders.wavenext2 import WaveNeXt2

__all__ = ["VOCODERS", "AdversarialGenerator", "Vocoder"]

VOCODERS = Registry[Vocoder](
    "vocoder",
    {
        "dac": Dac,
        "diffwave": DiffWave,
        "istft": Istft,
        "wavefit": WaveFit,
        "wavenext2": WaveNeXt2,
    },
)
