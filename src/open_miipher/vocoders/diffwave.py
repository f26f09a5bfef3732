"""A diffusion as a vocoder of log-mel features."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from open_miipher.audio.mel import MelConfig
from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, white_noise
from open_miipher.base.precision import stay_in_float32
from open_miipher.base.registry import build
from open_miipher.diffusion import (
    BACKBONES,
    FAST_LEVELS,
    Backbone,
    MelCondition,
    NoiseSchedule,
    ScheduleConfig,
    check_hop,
    descend,
)
from open_miipher.vocoders.base import Vocoder


@dataclass
class DiffWaveConfig:
    """A conditional diffusion.

    Attributes:
        backbone: name and sizes, as the diffusion's recipe gives them.
        mel: the front end of its mels.
        diffusion: the schedule that it was trained with.
        fast_levels: variances of the steps from noise to sound; empty: all of the schedule.
    """

    backbone: dict[str, Any]
    mel: MelConfig
    diffusion: ScheduleConfig
    fast_levels: tuple[float, ...] = FAST_LEVELS


class DiffWave(Vocoder):
    """Takes the noise away from the noise it is given, in a few steps.

    Args:
        feature_width: of the encoder: bands.
        frame_rate: of the encoder, frames a second.
        config: the diffusion.

    Raises:
        UserError: the parts do not fit together.
    """

    Config = DiffWaveConfig
    needs_noise = True
    restores_level = True

    def __init__(self, feature_width: int, frame_rate: float, config: DiffWaveConfig) -> None:
        super().__init__()
        mel = config.mel
        if (feature_width, frame_rate) != (mel.n_mels, mel.sample_rate / mel.hop_length):
            raise UserError(
                f"this diffwave vocoder hears {mel.n_mels} bands at "
                f"{mel.sample_rate / mel.hop_length:g} frames/s, not {feature_width} at "
                f"{frame_rate:g}; give the encoder its front end"
            )
        self.sample_rate, self.hop_length, self.mel = mel.sample_rate, mel.hop_length, mel
        self.backbone: Backbone = build(BACKBONES, config.backbone, key="backbone")
        check_hop(self.backbone.config, mel.hop_length)
        self.condition = MelCondition(mel)
        schedule = NoiseSchedule(config.diffusion)
        self.descent = schedule.fast(config.fast_levels) if config.fast_levels else schedule.full
        stay_in_float32(self)

    @torch.no_grad()
    def generate(
        self, features: Tensor, noise: Tensor, frame_lengths: Tensor | None = None
    ) -> Tensor:
        """Vocode; see `Vocoder.generate`.

        Rows of other lengths go one by one: state-space layers hear a whole row at once.
        """
        if frame_lengths is None:
            return self._generate(features, noise)
        sounds = torch.zeros_like(noise)
        for row, frames in enumerate(frame_lengths.tolist()):
            end = frames * self.hop_length
            sounds[row, :end] = self._generate(
                features[row : row + 1, :frames], noise[row : row + 1, :end]
            )[0]
        return sounds

    def _generate(self, features: Tensor, noise: Tensor) -> Tensor:
        num_steps = len(self.descent.betas)
        # Noise of later steps follows from that of the first, sample by sample: what shares the one
        # shares the others, wherever in a signal a chunk begins.
        bits = noise.float().contiguous().view(torch.int32).long().flatten()

        def draw(step: int) -> Tensor:
            if step == num_steps:
                return noise.float()[:, None]
            keys = stream_keys(step, bits, 0)
            return white_noise(keys, torch.zeros_like(keys), 1).view(noise.shape)[:, None]

        mel = self.condition.scaled(features.float().transpose(1, 2))
        return descend(self.backbone, self.descent, draw, mel)[:, 0]
