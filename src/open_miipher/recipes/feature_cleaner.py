"""Stage 1: the cleaner learns to turn damaged audio's features into the clean audio's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.losses import feature_losses
from open_miipher.recipes.parts import at_rate, build_cleaner, build_encoder
from open_miipher.recipes.recipe import Batch, Pass, Recipe, check_weights, weighted_sum

LOSSES = ("l1", "l2", "spectral_convergence")


@dataclass
class FeatureCleanerConfig:
    """What the stage is made of.

    Attributes:
        encoder: the frozen speech encoder (name and fields).
        cleaner: what trains on top of it.
        loss_weights: of l1, l2 and spectral_convergence.
    """

    encoder: dict[str, Any]
    cleaner: dict[str, Any]
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LOSSES, 1.0))


class FeatureCleaner(Recipe):
    """Miipher-2's feature cleaner (Karita et al. 2025, section 2.2).

    Args:
        sample_rate: of the data's audio.
        seed: unused; a cleaner draws nothing inside a step but dropout.
        config: the parts.
    """

    Config = FeatureCleanerConfig
    score = "feature_distance"

    def __init__(self, sample_rate: int, seed: int, config: FeatureCleanerConfig) -> None:
        check_weights(config.loss_weights, LOSSES, "model.loss_weights")
        self.encoder = build_encoder(config.encoder)
        self.cleaner = build_cleaner(config.cleaner, self.encoder)
        self.trained = {"cleaner": self.cleaner}
        self.frozen = {}
        self.sample_rate = sample_rate
        self.weights = config.loss_weights

    def passes(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass: L1, L2 and spectral convergence to the clean audio's features."""
        clean, lengths = self._for_encoder(batch.clean, batch.lengths)
        damaged, _ = self._for_encoder(batch.damaged, batch.lengths)
        target, frame_lengths = self.cleaner.teacher(clean, lengths)
        cleaned, _ = networks["cleaner"](damaged, lengths)
        losses = feature_losses(target, cleaned, frame_lengths)
        yield Pass("cleaner", weighted_sum(losses, self.weights), losses)

    @torch.no_grad()
    def validate(self, clip: Batch) -> dict[str, float]:
        """Score a clip by ‖S − Ŝ‖ / ‖S‖ of cleaned and of untouched features, S the clean ones."""
        clean, lengths = self._for_encoder(clip.clean, clip.lengths)
        damaged, _ = self._for_encoder(clip.damaged, clip.lengths)
        target, frame_lengths = self.cleaner.teacher(clean, lengths)
        cleaned, _ = self.cleaner(damaged, lengths)
        untouched, _ = self.cleaner.teacher(damaged, lengths)
        frames = int(frame_lengths[0])
        return {
            "feature_distance": relative_distance(target[0, :frames], cleaned[0, :frames]),
            "feature_distance_damaged": relative_distance(
                target[0, :frames], untouched[0, :frames]
            ),
        }

    def samples(self, clip: Batch) -> dict[str, Tensor]:
        """Return nothing: features cannot be heard before there is a vocoder."""
        return {}

    def _for_encoder(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return at_rate(waveform, lengths, self.sample_rate, self.cleaner.encoder.sample_rate)


def relative_distance(target: Tensor, estimate: Tensor) -> float:
    """Return ‖S − Ŝ‖ / ‖S‖ of two feature sequences, each (frames, width)."""
    target, estimate = target.float(), estimate.float()
    return float((target - estimate).norm() / target.norm().clamp_min(1e-8))
