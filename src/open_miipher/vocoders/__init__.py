"""Vocoders: features -> waveform. A vocoder is chosen by its name in `VOCODERS`."""

from open_miipher.vocoders.base import Vocoder
from open_miipher.vocoders.dac import Dac
from open_miipher.vocoders.wavefit import WaveFit

VOCODERS: dict[str, type[Vocoder]] = {"dac": Dac, "wavefit": WaveFit}
