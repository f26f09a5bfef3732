"""Discriminators: waveform -> feature maps and logits. Chosen by name in `DISCRIMINATORS`."""

from torch import nn

from open_miipher.base.registry import Registry
from open_miipher.discriminators.group import DiscriminatorGroup
from open_miipher.discriminators.multi_band_stft import MultiBandStftDiscriminator
from open_miipher.discriminators.multi_period import MultiPeriodDiscriminator
from open_miipher.discriminators.multi_scale import MultiScaleDiscriminator

DISCRIMINATORS = Registry[nn.Module](
    "discriminator",
    {
        "group": DiscriminatorGroup,
        "multi_band_stft": MultiBandStftDiscriminator,
        "multi_scale": MultiScaleDiscriminator,
        "multi_period": MultiPeriodDiscriminator,
    },
)
