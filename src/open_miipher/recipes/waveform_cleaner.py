"""One stage: a cleaner of complex spectra learns by what the waveform behind it sounds like."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, white_noise
from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.data.batch import PairBatch
from open_miipher.data.source import AudioSource
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.encoders.base import frame_mask
from open_miipher.losses import (
    COMPRESSED_LOSSES,
    CompressedSpectrumConfig,
    CompressedSpectrumLoss,
)
from open_miipher.recipes.parts import check_fit
from open_miipher.recipes.recipe import Pass, Recipe, Sound, check_weights, weighted_sum
from open_miipher.vocoders import VOCODERS
from open_miipher.vocoders.istft import Istft

_VALIDATION_NOISE_SEED = 0
_NOISE = 0  # what is drawn for a sample in a step
_SMALLEST_LEVEL = 1e-4  # RMS by which a sample is brought to level 1: -80 dB of full scale


@dataclass
class WaveformCleanerConfig:
    """What the stage is made of.

    Attributes:
        encoder: `stft` (name and fields).
        cleaner: what trains on top of it.
        vocoder: `istft`, with the encoder's fields.
        loss_weights: of magnitude, complex and log_mel.
        spectra: resolutions of the losses.
    """

    encoder: dict[str, Any]
    cleaner: dict[str, Any]
    vocoder: dict[str, Any]
    loss_weights: dict[str, float]
    spectra: CompressedSpectrumConfig = field(default_factory=CompressedSpectrumConfig)


class WaveformCleaner(Recipe[PairBatch]):
    """The small restorer's training: its vocoder has no weights, and gradients pass through it.

    Args:
        data: gives the audio, at the encoder's rate.
        seed: of the noise that the vocoder fills in.
        config: the parts.
    """

    Config = WaveformCleanerConfig
    data_kinds = (PairBatch,)
    score = "loss"
    scores = (*COMPRESSED_LOSSES, "log_spectral_distance")
    parts = ("encoder", "cleaner", "vocoder")

    def __init__(self, data: AudioSource, seed: int, config: WaveformCleanerConfig) -> None:
        super().__init__()
        check_weights(config.loss_weights, COMPRESSED_LOSSES)
        self.sample_rate, self.seed = data.sample_rate, seed
        self.weights = config.loss_weights
        self.encoder: Encoder = self.build("encoder", ENCODERS, config.encoder, key="model.encoder")
        self.base["encoder"] = self.encoder
        self.cleaner: Cleaner = self.build(
            "cleaner", CLEANERS, config.cleaner, self.encoder, key="model.cleaner"
        )
        features = (self.encoder.width, self.encoder.frame_rate)
        vocoder = self.build("generator", VOCODERS, config.vocoder, *features, key="model.vocoder")
        check_fit(vocoder, self.encoder, data.sample_rate)
        if not isinstance(vocoder, Istft) or vocoder.config != self.encoder.config:
            raise UserError(
                "the waveform_cleaner recipe needs model.vocoder.name=istft with the fields of "
                "model.encoder (stft): make them equal"
            )
        self.trained["cleaner"], self.frozen["generator"] = self.cleaner, vocoder
        self.vocoder = vocoder
        self.spectra = CompressedSpectrumLoss(data.sample_rate, config.spectra)
        self.tools = [self.spectra]

    def passes(self, batch: PairBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass: distances of restored and clean waveforms.

        Both are divided by the damaged waveform's level, so that quiet samples weigh as much as
        loud ones, and samples whose target is silence too.
        """
        restored = self._restore(batch, networks["cleaner"], self.seed)
        energy = batch.damaged.square().sum(1) / batch.lengths
        level = energy.sqrt().clamp_min(_SMALLEST_LEVEL)[:, None]
        losses = self.spectra(batch.clean / level, restored / level, batch.lengths)
        yield Pass("cleaner", weighted_sum(losses, self.weights), losses)

    def validate(self, batch: PairBatch) -> dict[str, float]:
        """Score by the losses, and by the log-spectral distance (dB) before and after."""
        first = next(self.passes(batch, self.trained))
        length = int(batch.lengths[0])
        restored = self._restore(batch, self.cleaner, _VALIDATION_NOISE_SEED)
        distances = {
            name: float(
                log_spectral_distance(
                    batch.clean[:, :length], waveform[:, :length], self.sample_rate
                )[0]
            )
            for name, waveform in (("", restored), ("_damaged", batch.damaged))
        }
        return {
            "loss": float(first.loss),
            **{name: float(value) for name, value in first.losses.items()},
            **{f"log_spectral_distance{name}": value for name, value in distances.items()},
        }

    def samples(self, batch: PairBatch | None) -> dict[str, Sound]:
        """Return the clean, the damaged and the restored waveform of a clip."""
        if batch is None:
            return {}
        length = int(batch.lengths[0])
        restored = self._restore(batch, self.cleaner, _VALIDATION_NOISE_SEED)
        audio = {"clean": batch.clean, "damaged": batch.damaged, "restored": restored}
        return {
            name: Sound(waveform[0, :length], self.sample_rate) for name, waveform in audio.items()
        }

    def _restore(self, batch: PairBatch, cleaner: nn.Module, seed: int) -> Tensor:
        """Return (batch, samples) restored waveforms, zero beyond each sample's length."""
        features, _ = cleaner(batch.damaged, batch.true_lengths)
        positions = batch.positions.to(features.device, non_blocking=True)
        keys = stream_keys(seed, positions, _NOISE)
        num_samples = features.shape[1] * self.vocoder.hop_length
        noise = white_noise(keys, torch.zeros_like(keys), num_samples)
        width = batch.damaged.shape[1]
        return self.vocoder(features, noise)[:, :width] * frame_mask(batch.lengths, width)
