"""Stages 2 and 3: a vocoder learns to speak features, judged by spectra and discriminators."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import Cleaner
from open_miipher.discriminators import DISCRIMINATORS
from open_miipher.losses import (
    Kind,
    MultiResolutionSTFTConfig,
    MultiResolutionSTFTLoss,
    MultiScaleMelConfig,
    MultiScaleMelLoss,
    discriminator_loss,
    generator_losses,
)
from open_miipher.recipes.parts import at_rate, build_cleaner, build_encoder, build_vocoder
from open_miipher.recipes.recipe import (
    Batch,
    Pass,
    Recipe,
    check_weights,
    frozen,
    sample_noise,
    sample_uniform,
    weighted_sum,
)

ADVERSARIAL_LOSSES = ("adversarial", "feature_matching")
SPECTRAL_LOSSES = {"stft": ("stft_convergence", "stft_magnitude"), "mel": ("mel",)}
_VALIDATION_NOISE_SEED = 0


@dataclass
class AdversarialVocoderConfig:
    """What the stages are made of.

    Attributes:
        features: `clean` (stage 2: the encoder's features of clean audio) or `cleaned` (stage 3:
            the cleaner's features of damaged audio).
        encoder: the frozen speech encoder (name and fields).
        vocoder: the vocoder that trains.
        discriminators: name to the discriminator of that name and its fields.
        loss_weights: of adversarial and feature_matching, of stft_convergence and stft_magnitude
            where there is `stft`, and of mel where there is `mel`.
        adversarial: the kind of loss between vocoder and discriminators.
        stft: resolutions of the distance between magnitudes; None: it is no loss.
        mel: scales of the distance between log-mel spectra; None: it is no loss.
        cleaner: the cleaner of stage 1; needed for `cleaned`.
        segment_seconds: the vocoder learns on one piece this long of each crop, chosen more often
            where the crop is loud, so that the encoder sees more context than the vocoder has to
            speak; None: on the whole crop.
    """

    features: Literal["clean", "cleaned"]
    encoder: dict[str, Any]
    vocoder: dict[str, Any]
    discriminators: dict[str, dict[str, Any]]
    loss_weights: dict[str, float]
    adversarial: Kind = "hinge"
    stft: MultiResolutionSTFTConfig | None = None
    mel: MultiScaleMelConfig | None = None
    cleaner: dict[str, Any] | None = None
    segment_seconds: float | None = None


class AdversarialVocoder(Recipe):
    """Training of a vocoder against discriminators, on clean or on cleaned features.

    WaveFit's (Koizumi et al. 2022, section 3.3) with a hinge loss and magnitudes, DAC's and Sidon's
    (arXiv 2509.17052) with least squares and mel spectra. Every output of the vocoder is judged;
    the losses are means over them.

    Args:
        sample_rate: of the data's audio and the vocoder's.
        seed: of the initial noise and the pieces' places.
        config: the parts.
    """

    Config = AdversarialVocoderConfig
    score = "log_spectral_distance"

    def __init__(self, sample_rate: int, seed: int, config: AdversarialVocoderConfig) -> None:
        self.spectral = _spectral_losses(sample_rate, config)
        spectral_names = (name for key in self.spectral for name in SPECTRAL_LOSSES[key])
        names = (*ADVERSARIAL_LOSSES, *spectral_names)
        check_weights(config.loss_weights, names, "model.loss_weights")
        self.adversarial = config.adversarial
        self.sample_rate = sample_rate
        self.seed = seed
        self.weights = config.loss_weights
        self.encoder = build_encoder(config.encoder)
        self.encoder_fingerprint = self.encoder.fingerprint()
        self.vocoder = build_vocoder(config.vocoder, self.encoder, sample_rate)
        if not config.discriminators:
            raise UserError("model.discriminators is empty; name at least one")
        self.discriminators = Discriminators(config.discriminators)
        self.trained = {"generator": self.vocoder, "discriminator": self.discriminators}
        self.frozen = {}
        self.cleaner: Cleaner | None = None
        if config.features == "cleaned":
            if config.cleaner is None:
                raise UserError("model.features=cleaned needs model.cleaner_ckpt_dir=…")
            self.cleaner = build_cleaner(config.cleaner, self.encoder)
            self.cleaner.requires_grad_(False).eval()
            self.frozen["cleaner"] = self.cleaner
        self.segment_frames = (
            None
            if config.segment_seconds is None
            else max(1, round(config.segment_seconds * sample_rate / self.vocoder.hop_length))
        )

    def to(self, device: torch.device) -> None:
        """Move every network, and the losses' windows, to a device."""
        super().to(device)
        self.spectral.to(device)

    def passes(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the generator's pass, then the discriminators' on the same, detached, outputs."""
        features, target, mask = self._conditions(batch)
        noise = self._noise(self.seed, batch.positions, target.shape[1])
        outputs = [output * mask for output in networks["generator"](features, noise)]
        with frozen(self.discriminators):
            losses = generator_losses(self.discriminators, target, outputs, self.adversarial)
        stacked = torch.stack(outputs)
        for loss in self.spectral.values():
            losses |= loss(target, stacked)
        yield Pass("generator", weighted_sum(losses, self.weights), losses)

        judge = networks["discriminator"]
        loss = discriminator_loss(judge, target, outputs, self.adversarial)
        yield Pass("discriminator", loss, {"discriminator": loss})

    @torch.no_grad()
    def validate(self, clip: Batch) -> dict[str, float]:
        """Score a clip by the log-spectral distance (dB) of what the stage makes of it."""
        target, restored = self._restore(clip)
        scores = {"log_spectral_distance": self._distance(target, restored)}
        if self.cleaner is not None:
            damaged = clip.damaged[:, : int(clip.lengths[0])]
            damaged = self.vocoder.target(damaged, damaged)
            scores["log_spectral_distance_damaged"] = self._distance(target, damaged)
        return scores

    @torch.no_grad()
    def samples(self, clip: Batch) -> dict[str, Tensor]:
        """Return the clean, the damaged (stage 3) and the restored waveform of a clip."""
        length = int(clip.lengths[0])
        audio = {"clean": clip.clean[0, :length], "restored": self._restore(clip)[1][0]}
        return audio if self.cleaner is None else {"damaged": clip.damaged[0, :length], **audio}

    def _features(self, batch: Batch) -> Tensor:
        source = batch.clean if self.cleaner is None else batch.damaged
        waveform, lengths = at_rate(
            source, batch.lengths, self.sample_rate, self.encoder.sample_rate
        )
        network = self.encoder if self.cleaner is None else self.cleaner
        with torch.no_grad():
            features, _ = network(waveform, lengths)
        return features

    def _conditions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (batch, frames, width), target and mask (batch, frames · hop)."""
        features = self._features(batch)
        hop, frames = self.vocoder.hop_length, features.shape[1]
        missing = frames * hop - batch.clean.shape[1]
        clean = nn.functional.pad(batch.clean, (0, missing))
        count = min(self.segment_frames or frames, frames)
        starts = loud_starts(clean, hop, count, sample_uniform(self.seed, batch.positions))
        rows = torch.arange(len(starts), device=starts.device)[:, None]
        frame_places = starts[:, None] + torch.arange(count, device=starts.device)
        places = starts[:, None] * hop + torch.arange(count * hop, device=starts.device)
        spoken = places.shape[1] - self.vocoder.num_missing
        mask = (places < batch.lengths[:, None]).to(clean.dtype)
        mask[:, spoken:] = 0  # or the discriminators would tell by that which is which
        target = self.vocoder.target(clean[rows, places] * mask, clean)
        return features[rows, frame_places], target, mask

    def _noise(self, seed: int, positions: Tensor, num_samples: int) -> Tensor:
        if self.vocoder.needs_noise:
            return sample_noise(seed, positions, num_samples)
        return torch.zeros((), device=positions.device).expand(len(positions), num_samples)

    def _restore(self, clip: Batch) -> tuple[Tensor, Tensor]:
        length = int(clip.lengths[0])
        features = self._features(clip)
        num_samples = features.shape[1] * self.vocoder.hop_length
        noise = self._noise(_VALIDATION_NOISE_SEED, clip.positions, num_samples)
        restored = self.vocoder.generate(features, noise)[:, :length]
        clean = clip.clean[:, :length]
        return self.vocoder.target(clean, clean), restored

    def _distance(self, target: Tensor, estimate: Tensor) -> float:
        return float(log_spectral_distance(target, estimate, self.sample_rate)[0])


def _spectral_losses(sample_rate: int, config: AdversarialVocoderConfig) -> nn.ModuleDict:
    losses = nn.ModuleDict()
    if config.stft is not None:
        losses["stft"] = MultiResolutionSTFTLoss(config.stft)
    if config.mel is not None:
        losses["mel"] = MultiScaleMelLoss(sample_rate, config.mel)
    if not losses:
        raise UserError("model.stft and model.mel are both empty; give one or both")
    return losses


class Discriminators(nn.Module):
    """Several discriminators as one network.

    Args:
        specs: registry name to fields.
    """

    def __init__(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                name: build(DISCRIMINATORS, {"name": name, **spec}, key="model.discriminators")
                for name, spec in specs.items()
            }
        )

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        """Judge (batch, samples): feature maps a sub-discriminator, the logits last."""
        return [maps for part in self.parts.values() for maps in part(waveform)]


def loud_starts(clean: Tensor, hop: int, num_frames: int, draw: Tensor) -> Tensor:
    """Choose where in each sample a piece starts, in proportion to the piece's RMS level.

    Pieces of near-silence would be amplified to full peak and teach the vocoder nothing.

    Args:
        clean: (batch, frames · hop).
        hop: samples a frame.
        num_frames: length of the piece.
        draw: (batch,) uniform in [0, 1).

    Returns:
        (batch,) first frames.
    """
    energy = clean.float().square().unflatten(1, (-1, hop)).sum(2)
    level = energy.unfold(1, num_frames, 1).sum(2).sqrt() + 1e-6
    chance = level.double().cumsum(1)
    return torch.searchsorted(chance / chance[:, -1:], draw.double()[:, None]).squeeze(1)
