"""Losses: each is the mean over samples of a per-sample value, so means over ranks are exact."""

from open_miipher.losses.adversarial import (
    DiscriminatorLoss,
    GeneratorLosses,
    Kind,
    feature_distances,
    hinge_discriminator,
    hinge_generator,
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
    "DiscriminatorLoss",
    "GeneratorLosses",
    "Kind",
    "MultiResolutionSTFTConfig",
    "MultiResolutionSTFTLoss",
    "MultiScaleMelConfig",
    "MultiScaleMelLoss",
    "feature_distances",
    "feature_losses",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
]
