"""Stages 2 and 3: a vocoder learns to turn features into speech, against discriminators."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from open_miipher.audio.spectral import log_spectral_distance
from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys, uniform
from open_miipher.cleaners import CLEANERS, Cleaner
from open_miipher.data.batch import PairBatch
from open_miipher.data.source import AudioSource
from open_miipher.discriminators import DISCRIMINATORS
from open_miipher.encoders import ENCODERS, Encoder
from open_miipher.evaluation.measures import (
    MEASURES,
    CannotMeasureError,
    Measured,
    Settings,
    Signal,
)
from open_miipher.losses import (
    DiscriminatorLoss,
    GeneratorLosses,
    Kind,
    MultiResolutionSTFTConfig,
    MultiResolutionSTFTLoss,
    MultiScaleMelConfig,
    MultiScaleMelLoss,
)
from open_miipher.recipes.parts import at_rate, check_crops, check_fit
from open_miipher.recipes.recipe import (
    Pass,
    Recipe,
    Sound,
    check_weights,
    frozen,
    weighted_sum,
)
from open_miipher.vocoders import VOCODERS, AdversarialGenerator
from open_miipher.vocoders.base import CropPieces, cut

DNSMOS = MEASURES["dnsmos"]
_LOWEST_OPINION = 1.0  # of a mean opinion score
ADVERSARIAL_LOSSES = ("adversarial", "feature_matching")
SPECTRAL_LOSSES = {"stft": ("stft_convergence", "stft_magnitude"), "mel": ("mel",)}
_VALIDATION_NOISE_SEED = 0
# The draws of a sample in a step, as `stream_keys` numbers them; each piece has one from _PIECE on.
_NOISE, _PIECE = 0, 1


@dataclass
class AdversarialVocoderConfig:
    """The parts and losses of stages 2 and 3.

    Attributes:
        features: `clean` (stage 2: the encoder's features of clean audio) or `cleaned` (stage 3:
            the cleaner's features of damaged audio).
        encoder: the frozen speech encoder (name and fields).
        vocoder: the vocoder that trains (name and fields).
        discriminators: each discriminator's name in the registry and its fields.
        loss_weights: of adversarial and feature_matching; with `stft`, also of stft_convergence and
            stft_magnitude; with `mel`, also of mel.
        adversarial: the kind of loss between vocoder and discriminators.
        stft: resolutions of the STFT losses; None: no STFT loss.
        mel: scales of the log-mel loss; None: no mel loss.
        cleaner: the cleaner of stage 1; needed for `cleaned`.
        segment_seconds: the vocoder speaks pieces of this length from each crop, so that the
            encoder and the vocoder's pre-net see as much context as they do when restoring. Loud
            pieces are chosen more often. None: the whole crop.
        pieces_per_crop: how many. The encoder's and the cleaner's work is done once for all.
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
    pieces_per_crop: int = 1


class AdversarialVocoder(Recipe[PairBatch]):
    """Training of a vocoder against discriminators, on clean or on cleaned features.

    With a hinge loss and STFT losses, this is the training of WaveFit (Koizumi et al. 2022, section
    3.3); with least squares and a mel loss, that of DAC and Sidon (arXiv 2509.17052). The losses
    are means over all outputs of the vocoder's iterations.

    Args:
        data: gives the audio, at the vocoder's sample rate.
        seed: of the initial noise and the positions of the segments.
        config: parts and losses.

    Raises:
        UserError: parts or losses do not fit each other.
    """

    Config = AdversarialVocoderConfig
    data_kinds = (PairBatch,)
    score = "log_spectral_distance"
    scores = ("mel_distance", *DNSMOS.columns)  # not the losses, which do not tell what is better
    rising = frozenset(DNSMOS.columns)
    parts = ("encoder", "cleaner", "vocoder", "discriminators")
    takes: ClassVar = {
        "cleaner_ckpt_dir": ("cleaner",),
        "vocoder_ckpt_dir": ("generator", "discriminator"),
    }

    def __init__(self, data: AudioSource, seed: int, config: AdversarialVocoderConfig) -> None:
        super().__init__()
        self.spectral = _spectral_losses(data.sample_rate, config)
        spectral_names = (name for key in self.spectral for name in SPECTRAL_LOSSES[key])
        check_weights(config.loss_weights, (*ADVERSARIAL_LOSSES, *spectral_names))
        self.sample_rate, self.weights = data.sample_rate, config.loss_weights
        self.encoder: Encoder = self.build("encoder", ENCODERS, config.encoder, key="model.encoder")
        check_crops(self.encoder, data)
        self.base["encoder"] = self.encoder
        features = (self.encoder.width, self.encoder.frame_rate)
        self.vocoder: AdversarialGenerator = self.build(
            "generator", VOCODERS, config.vocoder, *features, key="model.vocoder"
        )
        check_fit(self.vocoder, self.encoder, data.sample_rate)
        group = {"name": "group", "members": config.discriminators}
        self.discriminators: nn.Module = self.build(
            "discriminator", DISCRIMINATORS, group, key="model.discriminators"
        )
        self.trained = {"generator": self.vocoder, "discriminator": self.discriminators}
        self.cleaner: Cleaner | None = None
        if config.features == "cleaned":
            if config.cleaner is None:
                raise UserError("model.features=cleaned needs model.cleaner_ckpt_dir=…")
            cleaner: Cleaner = self.build(
                "cleaner", CLEANERS, config.cleaner, self.encoder, key="model.cleaner"
            )
            self.frozen["cleaner"] = self.cleaner = cleaner.requires_grad_(False).eval()
        self.draw_pieces = PieceSampler(
            self.vocoder, seed, config.segment_seconds, config.pieces_per_crop
        )
        self.generator_losses = GeneratorLosses(config.adversarial)
        self.discriminator_loss = DiscriminatorLoss(config.adversarial)
        self.mel_distance = MultiScaleMelLoss(data.sample_rate, MultiScaleMelConfig())
        self.tools = [
            self.draw_pieces,
            self.generator_losses,
            *self.spectral.values(),
            self.discriminator_loss,
            self.mel_distance,
        ]

    @classmethod
    def check_scores(cls, names: Sequence[str]) -> None:
        """See `Recipe.check_scores`."""
        super().check_scores(names)
        if cls.rising.intersection(names):
            try:
                DNSMOS.load(Settings())
            except ImportError as error:
                raise UserError(
                    f"trainer.best_by asks for dnsmos: {error}: {DNSMOS.install}"
                ) from error

    @classmethod
    def is_given(cls, part: str, spec: Mapping[str, Any]) -> bool:
        """See `Recipe.is_given`; `discriminators` has one key per discriminator and no `name`."""
        return bool(spec) if part == "discriminators" else super().is_given(part, spec)

    def passes(self, batch: PairBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the generator's pass, then the discriminators' pass on the same outputs."""
        features = self._features(batch)
        positions = batch.positions.to(features.device, non_blocking=True)
        target, noise, pieces = self.draw_pieces(
            batch.clean, batch.lengths, positions, features.shape[1]
        )
        spoken = networks["generator"](features, noise, pieces)
        outputs = [output * pieces.mask for output in spoken]
        with frozen(self.discriminators):
            losses = self.generator_losses(self.discriminators, target, outputs)
        stacked = torch.stack(outputs)
        for loss in self.spectral.values():
            losses |= loss(target, stacked)
        yield Pass("generator", weighted_sum(losses, self.weights), losses)

        heard = torch.cat([target, *(output.detach() for output in outputs)])
        maps = networks["discriminator"](heard, only_logits=True)
        loss = self.discriminator_loss(maps, len(target))
        yield Pass("discriminator", loss, {"discriminator": loss})

    def validate(self, batch: PairBatch) -> dict[str, float]:
        """Return the generator's losses, and distances of its output from the clean speech.

        These are the log-spectral distance (dB) and that of DAC's log-mel spectra; if the run
        chooses by it, also what DNSMOS thinks of the output.
        """
        first = next(self.passes(batch, self.trained))
        target, restored = self._restore(batch)
        scores = {
            "loss": float(first.loss),
            **{name: float(value) for name, value in first.losses.items()},
            "log_spectral_distance": self._distance(target, restored),
            "mel_distance": float(self.mel_distance(target, restored)["mel"]),
        }
        if self.rising.intersection(self.best_by):
            scores |= self._opinions(restored[0])
        if self.cleaner is not None:
            damaged = batch.damaged[:, : int(batch.lengths[0])]
            damaged = self.vocoder.target(damaged, damaged)
            scores["log_spectral_distance_damaged"] = self._distance(target, damaged)
        return scores

    def samples(self, batch: PairBatch | None) -> dict[str, Sound]:
        """Return the clean, the damaged (stage 3) and the restored waveform of a clip."""
        if batch is None:
            return {}
        length = int(batch.lengths[0])
        audio = {"clean": batch.clean[0, :length], "restored": self._restore(batch)[1][0]}
        if self.cleaner is not None:
            audio = {"damaged": batch.damaged[0, :length], **audio}
        return {name: Sound(waveform, self.sample_rate) for name, waveform in audio.items()}

    def _features(self, batch: PairBatch) -> Tensor:
        source = batch.clean if self.cleaner is None else batch.damaged
        waveform, lengths = at_rate(
            source, batch.true_lengths, self.sample_rate, self.encoder.sample_rate
        )
        network = self.encoder if self.cleaner is None else self.cleaner
        with torch.no_grad():
            features, _ = network(waveform, lengths)
        return features

    def _restore(self, clip: PairBatch) -> tuple[Tensor, Tensor]:
        length = int(clip.lengths[0])
        features = self._features(clip)
        keys = stream_keys(_VALIDATION_NOISE_SEED, clip.positions, _NOISE).to(features.device)
        num_samples = features.shape[1] * self.vocoder.hop_length
        noise = self.vocoder.noise(keys, torch.zeros_like(keys), num_samples)
        restored = self.vocoder.generate(features, noise)[:, :length]
        clean = clip.clean[:, :length]
        return self.vocoder.target(clean, clean), restored

    def _distance(self, target: Tensor, estimate: Tensor) -> float:
        return float(log_spectral_distance(target, estimate, self.sample_rate)[0])

    def _opinions(self, restored: Tensor) -> dict[str, float]:
        """Return DNSMOS's opinions of (samples,); the lowest, if it can have none of silence."""
        try:
            return self._dnsmos(Signal(restored.float().cpu().numpy(), self.sample_rate), None)
        except CannotMeasureError:
            return dict.fromkeys(DNSMOS.columns, _LOWEST_OPINION)

    @cached_property
    def _dnsmos(self) -> Measured:
        return DNSMOS.load(Settings())


def _spectral_losses(sample_rate: int, config: AdversarialVocoderConfig) -> nn.ModuleDict:
    losses = nn.ModuleDict()
    if config.stft is not None:
        losses["stft"] = MultiResolutionSTFTLoss(config.stft)
    if config.mel is not None:
        losses["mel"] = MultiScaleMelLoss(sample_rate, config.mel)
    if not losses:
        raise UserError("model.stft and model.mel are both empty; give one or both")
    return losses


class PieceSampler(nn.Module):
    """Draws which pieces of a batch's crops a vocoder speaks, and the noise that it starts from.

    Args:
        vocoder: speaks them.
        seed: of the noise and the places.
        seconds: length of a piece; None: the whole crop.
        num_pieces: of each crop.

    Raises:
        UserError: no piece of a crop is asked for.
    """

    def __init__(
        self, vocoder: AdversarialGenerator, seed: int, seconds: float | None, num_pieces: int
    ) -> None:
        super().__init__()
        if num_pieces < 1:
            raise UserError(f"model.pieces_per_crop={num_pieces} must be at least 1")
        self.vocoder, self.seed, self.num_pieces = vocoder, seed, num_pieces
        self.num_frames: int | None = None
        if seconds is not None:
            self.num_frames = max(1, round(seconds * vocoder.sample_rate / vocoder.hop_length))

    def forward(
        self, clean: Tensor, lengths: Tensor, positions: Tensor, num_frames: int
    ) -> tuple[Tensor, Tensor, CropPieces]:
        """Draw the pieces of a batch.

        Args:
            clean: (crops, samples).
            lengths: (crops,) true samples.
            positions: (crops,) of the crops in the endless stream.
            num_frames: of each crop's features.

        Returns:
            What the pieces shall sound like, (pieces, samples), the noise for them, the same, and
            where they lie.
        """
        hop, vocoder = self.vocoder.hop_length, self.vocoder
        clean = nn.functional.pad(clean, (0, num_frames * hop - clean.shape[1]))
        count = min(self.num_frames or num_frames, num_frames)
        numbers = range(_PIECE, _PIECE + self.num_pieces)
        keys = torch.stack([stream_keys(self.seed, positions, n) for n in numbers], dim=1)
        draws = uniform(keys)
        spare = num_frames - count - 2 * vocoder.margin_frames
        starts = loud_starts(clean, hop, count, draws, vocoder.margin_frames if spare >= 0 else 0)
        crops = torch.arange(len(starts), device=starts.device).repeat_interleave(len(numbers))
        starts = starts.flatten()
        places = starts[:, None] * hop + torch.arange(count * hop, device=starts.device)
        # Beyond what a vocoder can give, discriminators would recognise its outputs by their end.
        ends = lengths.clamp_max(num_frames * hop - vocoder.num_missing)
        mask = (places < ends[crops, None]).to(clean.dtype)
        spoken = cut(clean, crops, starts * hop, count * hop) * mask
        target = vocoder.target(spoken, clean[crops])
        noise_keys = stream_keys(self.seed, positions, _NOISE)[crops]
        noise = vocoder.noise(noise_keys, starts * hop, target.shape[1])
        return target, noise, CropPieces(crops, starts, count, target.abs().amax(1), mask)


def loud_starts(clean: Tensor, hop: int, num_frames: int, draws: Tensor, margin: int = 0) -> Tensor:
    """Draw the first frames of pieces of each crop, in proportion to their RMS level.

    Pieces of near-silence teach the vocoder nothing.

    Args:
        clean: (batch, frames · hop).
        hop: samples per frame.
        num_frames: length of a piece.
        draws: (batch, pieces) uniform in [0, 1).
        margin: frames that a piece keeps from either end of the crop.

    Returns:
        (batch, pieces) first frames.
    """
    energy = clean.float().square().unflatten(1, (-1, hop)).sum(2)
    energy = energy[:, margin : energy.shape[1] - margin]
    level = energy.unfold(1, num_frames, 1).sum(2).sqrt() + 1e-6
    chance = level.double().cumsum(1)
    return margin + torch.searchsorted(chance / chance[:, -1:], draws.double())
