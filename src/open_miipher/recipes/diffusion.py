"""DiffWave: a backbone learns to guess the noise in audio, alone or beside a mel.

The mel is that of the audio (a vocoder), or what a cleaner makes of damaged audio (a restorer).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from open_miipher.audio.mel import MelConfig, check_front_end
from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, uniform, white_noise
from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.data.audio import Audio
from open_miipher.data.batch import AudioBatch, Batch, PairBatch
from open_miipher.data.building import DegradedSpeech
from open_miipher.data.preprocessed import Preprocessed
from open_miipher.diffusion import (
    BACKBONES,
    Backbone,
    MelCondition,
    NoiseSchedule,
    ScheduleConfig,
    check_hop,
    sample,
)
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.recipes.recipe import ParameterGroup, Pass, Recipe, Sound

_OF_RECIPE = {
    *("backbone", "diffusion", "unconditional", "mel", "encoder", "cleaner", "ssm_lr_scale")
}
"""The fields of the configuration that are not the backbone's."""

_NOISE, _STEP = 0, 1  # what is drawn for a sample in a step
_VALIDATION_SEED = 0
_VALIDATION_STEPS = 8  # at which each clip is scored, evenly spread
_NUM_GENERATED = 4  # sounds from nothing, where there are no clips


@dataclass
class DiffusionConfig:
    """The diffusion and its backbone, with the field's names for its sizes.

    Attributes:
        backbone: wavenet or sashimi; the keys of the other one stay away.
        diffusion: the noise schedule.
        unconditional: speech from nothing; else from a mel.
        mel: the front end of a conditional backbone.
        encoder: log_mel with the same front end, for a cleaner (name and fields).
        cleaner: makes the mel of damaged audio (name and fields); None: it is the audio's.
        ssm_lr_scale: times the learning rate, for the parameters of state-space layers.
        in_channels … mel_upsample: of both backbones, see `BackboneConfig`.
        res_channels … dilation_cycle: see `WaveNetConfig`.
        unet … ff: see `SaShiMiConfig`.
    """

    backbone: Literal["wavenet", "sashimi"]
    diffusion: ScheduleConfig
    unconditional: bool = True
    mel: MelConfig | None = None
    encoder: dict[str, Any] | None = None
    cleaner: dict[str, Any] | None = None
    ssm_lr_scale: float = 1.0
    in_channels: int | None = None
    out_channels: int | None = None
    diffusion_step_embed_dim_in: int | None = None
    diffusion_step_embed_dim_mid: int | None = None
    diffusion_step_embed_dim_out: int | None = None
    diffusion_step_embed_exponent: float | None = None
    mel_upsample: tuple[int, ...] | None = None
    res_channels: int | None = None
    skip_channels: int | None = None
    num_res_layers: int | None = None
    dilation_cycle: int | None = None
    unet: bool | None = None
    d_model: int | None = None
    n_layers: int | None = None
    pool: tuple[int, ...] | None = None
    expand: int | None = None
    ff: int | None = None

    def spec(self) -> dict[str, Any]:
        """Return the backbone's name and those of its fields that are given."""
        given = {k: v for k, v in vars(self).items() if k not in _OF_RECIPE and v is not None}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
        bands = self.mel.n_mels if self.mel is not None and not self.unconditional else None
        return {"name": self.backbone, **plain, "mel_bands": bands}


class Diffusion(Recipe[Batch]):
    """Denoising diffusion of waveforms (Kong et al., ICLR 2021, arXiv 2009.09761, algorithm 1).

    Args:
        data: gives audio, and mels if they are in files; for a cleaner, pairs.
        seed: of the noise and the steps that are drawn.
        config: the diffusion and its backbone.
    """

    Config = DiffusionConfig
    data_kinds = (AudioBatch, PairBatch)
    score = "loss"
    parts = ("encoder", "cleaner")
    takes: ClassVar = {"cleaner_ckpt_dir": ("cleaner",), "vocoder_ckpt_dir": ("backbone",)}
    samples_folder = "waveforms"

    def __init__(
        self, data: Audio | DegradedSpeech | Preprocessed, seed: int, config: DiffusionConfig
    ) -> None:
        super().__init__()
        _check(data, config)
        self.seed, self.sample_rate = seed, data.sample_rate
        self.num_samples = round(data.crop_seconds * data.sample_rate)
        self.ssm_lr_scale = config.ssm_lr_scale
        self.schedule = NoiseSchedule(config.diffusion)
        self.tools = [self.schedule]
        self.backbone: Backbone = self.build("backbone", BACKBONES, config.spec(), key="model")
        self.trained["backbone"] = self.backbone
        self.condition: MelCondition | None = None
        if not config.unconditional and config.mel is not None:
            check_hop(self.backbone.config, config.mel.hop_length)
            self.condition = MelCondition(config.mel)
            self.tools.append(self.condition)
        self.cleaner: Cleaner | None = None
        if config.encoder is not None and config.cleaner is not None:
            self._build_cleaner(config.encoder, config.cleaner, config.mel)

    def passes(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass: the mean square of what is wrong in the guess of the noise.

        Short clips count with the silence behind them, which is to be generated too.
        """
        waveform, mel = self._heard(batch)
        positions = batch.positions.to(waveform.device, non_blocking=True)
        drawn = uniform(stream_keys(self.seed, positions, _STEP))
        steps = (drawn * self.schedule.num_steps).long()
        keys = stream_keys(self.seed, positions, _NOISE)
        error = self._error(networks["backbone"], waveform, mel, steps, keys)
        loss = error.mean()
        yield Pass("backbone", loss, {"noise": loss})

    def validate(self, batch: Batch) -> dict[str, float]:
        """Return the same error, of fixed noise, at steps spread evenly over all of them."""
        spread = (torch.arange(_VALIDATION_STEPS) + 0.5) / _VALIDATION_STEPS
        waveform, mel = self._heard(batch)
        steps = (spread * self.schedule.num_steps).long().to(waveform.device)
        keys = torch.cat(
            [stream_keys(_VALIDATION_SEED, batch.positions, k) for k in range(_VALIDATION_STEPS)]
        )
        mel = None if mel is None else mel.expand(_VALIDATION_STEPS, -1, -1)
        waveform = waveform.expand(_VALIDATION_STEPS, -1)
        return {"loss": float(self._error(self.backbone, waveform, mel, steps, keys).mean())}

    def samples(self, batch: Batch | None) -> dict[str, Sound]:
        """Return sounds from nothing, by number; or a clip, and its mel made to sound again.

        With clips, an unconditional model generates one sound for each, with the clip's number.
        """
        if batch is None and self.condition is not None:
            return {}
        if batch is None:
            generated = self._sample(torch.arange(_NUM_GENERATED), self.num_samples, None)
            return {f"{n:06d}": Sound(row, self.sample_rate) for n, row in enumerate(generated)}
        waveform, mel = self._heard(batch)
        num_samples = self.num_samples if mel is None else waveform.shape[1]
        generated = self._sample(batch.positions, num_samples, mel)
        sounds = {} if mel is None else {"original": waveform[0]}
        if isinstance(batch, PairBatch):
            sounds["damaged"] = batch.damaged[0]
        sounds["generated"] = generated[0]
        return {name: Sound(waveform, self.sample_rate) for name, waveform in sounds.items()}

    def parameter_groups(self, network: nn.Module) -> list[ParameterGroup]:
        """Sort parameters; those of state-space layers have their own rate, and do not decay."""
        ssm = network.ssm_parameters if isinstance(network, Backbone) else []
        of_ssm = {id(parameter) for parameter in ssm}
        groups = [
            ParameterGroup([p for p in g.parameters if id(p) not in of_ssm], g.decays)
            for g in super().parameter_groups(network)
        ]
        groups.append(ParameterGroup(ssm, decays=False, lr_scale=self.ssm_lr_scale))
        return [group for group in groups if group.parameters]

    @classmethod
    def run_name(cls, model: Mapping[str, Any]) -> str | None:
        """Name a run by its sizes, as the field's experiment folders are named."""
        if model.get("backbone") == "wavenet":
            sizes = f"wnet_h{model.get('res_channels')}_d{model.get('num_res_layers')}"
        else:
            sizes = (
                f"{'unet' if model.get('unet') else 'snet'}_d{model.get('d_model')}"
                f"_n{model.get('n_layers')}_pool_{len(model.get('pool') or ())}"
                f"_expand{model.get('expand')}_ff{model.get('ff')}"
            )
        schedule, mel = model["diffusion"], model.get("mel") or {}
        end = "uncond" if model.get("unconditional") else f"hop{mel.get('hop_length')}"
        return f"{sizes}_T{schedule['T']}_betaT{schedule['beta_T']:g}_{end}"

    def _error(
        self, backbone: nn.Module, clean: Tensor, mel: Tensor | None, steps: Tensor, keys: Tensor
    ) -> Tensor:
        """Return the mean square error of each sample's guess: (batch,)."""
        keys = keys.to(clean.device, non_blocking=True)
        noise = white_noise(keys, torch.zeros_like(keys), clean.shape[1])
        noisy = self.schedule.noisy(clean, noise, steps)
        guess = backbone(noisy[:, None], steps.double(), mel)[:, 0]
        return (guess - noise).square().mean(1)

    def _heard(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the audio of a batch, (batch, samples), and what is known of it."""
        if isinstance(batch, PairBatch) and self.cleaner is not None and self.condition is not None:
            with torch.no_grad():
                features, _ = self.cleaner(batch.damaged, batch.lengths)
            return batch.clean, self.condition.scaled(features.float().transpose(1, 2))
        if not isinstance(batch, AudioBatch):
            raise TypeError(batch)
        if self.condition is None:
            return batch.waveform, None
        if batch.mels is not None:
            return batch.waveform, self.condition.scaled(batch.mels)
        return batch.waveform, self.condition(batch.waveform)

    def _build_cleaner(
        self, encoder: Mapping[str, Any], cleaner: Mapping[str, Any], mel: MelConfig | None
    ) -> None:
        """Build the frozen cleaner of damaged audio, and its encoder.

        Raises:
            UserError: they do not give the mel that the backbone hears.
        """
        built: Encoder = self.build("encoder", ENCODERS, encoder, key="model.encoder")
        if built.mel is None or built.mel != mel:
            raise UserError(
                "model.encoder is not log_mel with the fields of model.mel, which the backbone "
                "hears: make them equal"
            )
        self.base["encoder"] = built
        made: Cleaner = self.build("cleaner", CLEANERS, cleaner, built, key="model.cleaner")
        self.frozen["cleaner"] = self.cleaner = made.requires_grad_(False).eval()

    def _sample(self, items: Tensor, num_samples: int, mel: Tensor | None) -> Tensor:
        return sample(self.backbone, self.schedule.full, items, num_samples, _VALIDATION_SEED, mel)


def _check(data: Audio | DegradedSpeech | Preprocessed, config: DiffusionConfig) -> None:
    """Check that the diffusion and its data fit.

    Raises:
        UserError: they do not.
    """
    if issubclass(data.batch_type, PairBatch) != (config.cleaner is not None):
        raise UserError(
            "a diffusion trains on pairs of clean and damaged speech with a cleaner alone "
            "(model=diffwave_finetune), and else on audio: choose another data=…"
        )
    mel_dirs = {}
    if isinstance(data, Audio):
        parts = {"train": data.config.train.mel_dir, "test": data.config.test.mel_dir}
        mel_dirs = {f"data.{part}.mel_dir": path for part, path in parts.items() if path}
    if config.ssm_lr_scale <= 0:
        raise UserError(f"model.ssm_lr_scale={config.ssm_lr_scale:g} must be above 0")
    if config.in_channels not in (None, 1):
        raise UserError(
            f"model.in_channels={config.in_channels}: audio is read as one channel; set "
            "model.in_channels and model.out_channels to 1"
        )
    if config.unconditional:
        if mel_dirs:
            raise UserError(
                f"model.unconditional=true hears no mel, but {' and '.join(mel_dirs)} is given: "
                "leave it out, or set model.unconditional=false"
            )
        return
    if config.mel is None:
        raise UserError("model.unconditional=false needs model.mel, the front end of the mel")
    if config.mel.sample_rate != data.sample_rate:
        raise UserError(
            f"model.mel.sample_rate={config.mel.sample_rate} but data.sample_rate="
            f"{data.sample_rate}; make them equal"
        )
    if not isinstance(data, Audio) or not mel_dirs:
        return
    shape = data.config.mel
    ours, theirs = (config.mel.n_mels, config.mel.hop_length), (shape.n_mels, shape.hop_length)
    if ours != theirs:
        raise UserError(
            f"the mels in {' and '.join(mel_dirs)} have {theirs[0]} bands and a hop of "
            f"{theirs[1]} (data.mel), model.mel has {ours[0]} and {ours[1]}; make them equal"
        )
    for path in mel_dirs.values():
        check_front_end(Path(path), config.mel)
