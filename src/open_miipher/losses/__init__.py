"""Losses: each is the mean over samples of a per-sample value, so means over ranks are exact."""

from open_miipher.losses.adversarial import (
    discriminator_loss,
    feature_matching,
    generator_losses,
    hinge_discriminator,
    hinge_generator,
)
from open_miipher.losses.features import feature_losses
from open_miipher.losses.stft import MultiResolutionSTFTConfig, MultiResolutionSTFTLoss

__all__ = [
    "MultiResolutionSTFTConfig",
    "MultiResolutionSTFTLoss",
    "discriminator_loss",
    "feature_losses",
    "feature_matching",
    "generator_losses",
    "hinge_discriminator",
    "hinge_generator",
]
