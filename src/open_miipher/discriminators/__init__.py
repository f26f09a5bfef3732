"""Discriminators: waveform -> feature maps and logits. Chosen by name in `DISCRIMINATORS`."""

from open_miipher.discriminators.multi_period import MultiPeriodDiscriminator
from open_miipher.discriminators.multi_scale import MultiScaleDiscriminator

DISCRIMINATORS: dict[str, type[MultiScaleDiscriminator] | type[MultiPeriodDiscriminator]] = {
    "multi_scale": MultiScaleDiscriminator,
    "multi_period": MultiPeriodDiscriminator,
}
