"""Distance of cleaned features to the features of clean speech."""

import torch
from torch import Tensor

SMALLEST_POWER = 1e-8  # smallest mean square of clean features that is divided by


def feature_losses(clean: Tensor, cleaned: Tensor, frame_lengths: Tensor) -> dict[str, Tensor]:
    """Compare features as Miipher-2 does (Karita et al., WASPAA 2025, arXiv 2505.04457).

    The paper's L1 and L2 norms are sums. Here they are means over the valid frames of a sample, so
    that long and short samples have equal weight. Spectral convergence is |S - Ŝ|² / |S|² of each
    sample: a ratio of sums over the batch could not be averaged over ranks.

    Args:
        clean: (batch, frames, width) target.
        cleaned: (batch, frames, width).
        frame_lengths: (batch,) valid frames, at least 1 each; later frames have no influence.

    Returns:
        `l1`, `l2` and `spectral_convergence`, each a float32 scalar: the mean over samples.
    """
    places = torch.arange(clean.shape[1], device=clean.device)
    mask = (places < frame_lengths[:, None])[:, :, None]
    # Masked before the arithmetic: NaN or infinity in the padding times zero would still be NaN.
    target = torch.where(mask, clean.float(), 0.0)
    difference = torch.where(mask, cleaned.float(), 0.0) - target
    num_values = frame_lengths * clean.shape[2]
    l1 = difference.abs().sum(dim=(1, 2)) / num_values
    l2 = difference.square().sum(dim=(1, 2)) / num_values
    power = target.square().sum(dim=(1, 2)) / num_values
    return {
        "l1": l1.mean(),
        "l2": l2.mean(),
        "spectral_convergence": (l2 / power.clamp_min(SMALLEST_POWER)).mean(),
    }
