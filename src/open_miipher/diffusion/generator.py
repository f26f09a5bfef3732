"""A trained diffusion, from its checkpoint alone: sounds by their numbers, or from mels."""

import contextlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from open_miipher.audio.mel import MelConfig
from open_miipher.base.errors import UserError
from open_miipher.base.registry import from_mapping
from open_miipher.checkpoint import Checkpoint
from open_miipher.diffusion.backbone import Backbone
from open_miipher.diffusion.condition import MelCondition
from open_miipher.diffusion.sampling import sample
from open_miipher.diffusion.schedule import Descent, NoiseSchedule, ScheduleConfig


class Generator:
    """A backbone, its schedule and what its sounds are like.

    Attributes:
        backbone: in evaluation mode, on its device.
        schedule: that it was trained with.
        descent: the steps from noise to sound; at first all of the schedule.
        sample_rate: of the sounds, in Hz.
        num_samples: of a sound from nothing: as long as a crop in training.
        condition: the front end of its mels; None: it is unconditional.
        fingerprint: identifies the weights and the precision of the computation.
    """

    def __init__(
        self,
        backbone: Backbone,
        schedule: ScheduleConfig,
        sample_rate: int,
        num_samples: int,
        mel: MelConfig | None,
        fingerprint: str,
        device: torch.device,
        amp: str = "no",
    ) -> None:
        """Move a trained backbone to a device.

        Args:
            backbone: trained.
            schedule: that it was trained with.
            sample_rate: in Hz.
            num_samples: of a sound from nothing.
            mel: its front end; None: unconditional.
            fingerprint: of the weights.
            device: to compute on.
            amp: no, or bf16: mixed precision.
        """
        self.backbone = backbone.to(device).eval()
        self.schedule = NoiseSchedule(schedule)
        self.descent: Descent = self.schedule.full
        self.sample_rate, self.num_samples = sample_rate, num_samples
        self.condition = None if mel is None else MelCondition(mel).to(device)
        self.fingerprint = fingerprint if amp == "no" else f"{fingerprint}-{amp}"
        self._device, self._amp = device, amp

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: torch.device, amp: str = "no", ema: bool = True
    ) -> "Generator":
        """Build the generator of a diffusion's checkpoint.

        Args:
            checkpoint: of a run of the diffusion recipe.
            device: to compute on.
            amp: no, or bf16.
            ema: take the moving average of the weights, if there is one.

        Raises:
            UserError: the checkpoint is of something else, or damaged.
        """
        blueprint = checkpoint.networks.get("backbone")
        if blueprint is None or blueprint.kind != "backbone":
            raise UserError(
                f"{checkpoint.path} is of model={checkpoint.config['name']}, which generates "
                "nothing by itself: give the run of a diffusion (model=wavenet, sashimi, …), or "
                "restore with src/inference.py"
            )
        data, model = checkpoint.config["data"], checkpoint.config["model"]
        mel = None
        if not model["unconditional"]:
            mel = from_mapping(MelConfig, model["mel"], "model.mel")
        return cls(
            cast(Backbone, checkpoint.build("backbone", ema)),
            from_mapping(ScheduleConfig, model["diffusion"], "model.diffusion"),
            data["sample_rate"],
            round(data["crop_seconds"] * data["sample_rate"]),
            mel,
            f"{checkpoint.identity[:16]}{'' if ema else '-no-ema'}",
            device,
            amp,
        )

    def use_fast(self, levels: Sequence[float]) -> None:
        """Descend in a few steps (see `NoiseSchedule.fast`).

        Raises:
            UserError: a level is outside the trained range.
        """
        self.descent = self.schedule.fast(levels)

    def generate(self, items: Tensor, seed: int, mel: Tensor | None = None) -> Tensor:
        """Make sounds; each depends on the seed, its number and its mel alone.

        Args:
            items: (batch,) int64, their numbers.
            seed: of the noise.
            mel: (batch, bands, frames) log-mels as `LogMel` makes them, of a conditional model.

        Returns:
            (batch, samples) float32 in [−1, 1] on the CPU; a hop of samples for each frame.
        """
        num_samples = self.num_samples
        if mel is not None and self.condition is not None:
            num_samples = mel.shape[-1] * self.condition.log_mel.config.hop_length
            mel = self.condition.scaled(mel.to(self._device))
        autocast = (
            contextlib.nullcontext()
            if self._amp == "no"
            else torch.autocast(self._device.type, torch.bfloat16)
        )
        with autocast:
            sounds = sample(self.backbone, self.descent, items, num_samples, seed, mel)
        return sounds.cpu()
