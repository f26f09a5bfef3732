"""Stage 1: the cleaner learns to turn features of damaged audio into those of clean audio."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.data.batch import PairBatch
from open_miipher.data.source import AudioSource
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.losses import feature_losses
from open_miipher.recipes.parts import at_rate, check_crops
from open_miipher.recipes.recipe import Pass, Recipe, Sound, check_weights, weighted_sum

LOSSES = ("l1", "l2", "spectral_convergence")


@dataclass
class FeatureCleanerConfig:
    """The parts and losses of stage 1.

    Attributes:
        encoder: the frozen speech encoder (name and fields).
        cleaner: the cleaner that trains on top of it (name and fields).
        loss_weights: of l1, l2 and spectral_convergence.
    """

    encoder: dict[str, Any]
    cleaner: dict[str, Any]
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LOSSES, 1.0))


class FeatureCleaner(Recipe[PairBatch]):
    """Miipher-2's feature cleaner (Karita et al. 2025, section 2.2).

    Args:
        data: gives the audio.
        seed: unused; the only randomness inside a step is dropout.
        config: parts and losses.
    """

    Config = FeatureCleanerConfig
    data_kinds = (PairBatch,)
    score = "feature_distance"
    scores = ("loss", *LOSSES)
    parts = ("encoder", "cleaner")

    def __init__(self, data: AudioSource, seed: int, config: FeatureCleanerConfig) -> None:
        super().__init__()
        check_weights(config.loss_weights, LOSSES)
        self.sample_rate, self.weights = data.sample_rate, config.loss_weights
        self.encoder: Encoder = self.build("encoder", ENCODERS, config.encoder, key="model.encoder")
        check_crops(self.encoder, data)
        self.base["encoder"] = self.encoder
        self.cleaner: Cleaner = self.build(
            "cleaner", CLEANERS, config.cleaner, self.encoder, key="model.cleaner"
        )
        self.trained["cleaner"] = self.cleaner

    def passes(self, batch: PairBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield one pass: L1, L2 and spectral convergence to the clean audio's features."""
        clean, lengths = self._for_encoder(batch.clean, batch.true_lengths)
        damaged, _ = self._for_encoder(batch.damaged, batch.true_lengths)
        target, frame_lengths = self.cleaner.teacher(clean, lengths)
        cleaned, _ = networks["cleaner"](damaged, lengths)
        losses = feature_losses(target, cleaned, frame_lengths)
        yield Pass("cleaner", weighted_sum(losses, self.weights), losses)

    def validate(self, batch: PairBatch) -> dict[str, float]:
        """Return the losses, and ‖S − Ŝ‖ / ‖S‖ of the cleaned and of the damaged features.

        S are the clean audio's features.
        """
        clean, lengths = self._for_encoder(batch.clean, batch.true_lengths)
        damaged, _ = self._for_encoder(batch.damaged, batch.true_lengths)
        target, frame_lengths = self.cleaner.teacher(clean, lengths)
        cleaned, _ = self.cleaner(damaged, lengths)
        untouched, _ = self.cleaner.teacher(damaged, lengths)
        losses = feature_losses(target, cleaned, frame_lengths)
        frames = int(frame_lengths[0])
        target, cleaned, untouched = (x[0, :frames] for x in (target, cleaned, untouched))
        return {
            "loss": float(weighted_sum(losses, self.weights)),
            **{name: float(value) for name, value in losses.items()},
            "feature_distance": relative_distance(target, cleaned),
            "feature_distance_damaged": relative_distance(target, untouched),
        }

    def samples(self, batch: PairBatch | None) -> dict[str, Sound]:
        """Return nothing: without a vocoder, there is nothing to hear."""
        return {}

    def _for_encoder(
        self, waveform: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return at_rate(waveform, lengths, self.sample_rate, self.encoder.sample_rate)


def relative_distance(target: Tensor, estimate: Tensor) -> float:
    """Return ‖S − Ŝ‖ / ‖S‖ of two feature sequences, each (frames, width)."""
    target, estimate = target.float(), estimate.float()
    return float((target - estimate).norm() / target.norm().clamp_min(1e-8))
