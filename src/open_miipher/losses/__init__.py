"""Losses: each is the mean over samples of a per-sample value, so means over ranks are exact."""

from open_miipher.losses.adversarial import (
    Kind,
    discriminator_loss,
    feature_distances,
    generator_losses,
    hinge_discriminator,
    hinge_generator,
    judged,
    least_squares_discriminator,
    least_squares_generator,
)
from open_miipher.losses.compressed import (
    COMPRESSED_LOSSES,
    CompressedSpectrumConfig,
    CompressedSpectrumLoss,
)
from open_miipher.losses.features import feature_losses
from open_miipher.losses.mel import MultiScaleMelConfig, MultiScaleMelLoss
from open_miipher.losses.stft import MultiResolutionSTFTConfig, MultiResolutionSTFTLoss

__all__ = [
    "COMPRESSED_LOSSES",
    "CompressedSpectrumConfig",
    "CompressedSpectrumLoss",
    "Kind",
    "MultiResolutionSTFTConfig",
    "MultiResolutionSTFTLoss",
    "MultiScaleMelConfig",
    "MultiScaleMelLoss",
    "discriminator_loss",
    "feature_distances",
    "feature_losses",
    "generator_losses",
    "hinge_discriminator",
    "hinge_generator",
    "judged",
    "least_squares_discriminator",
    "least_squares_generator",
]
