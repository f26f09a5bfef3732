"""A classifier of clips learns their labels: the judge of generated speech."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError, report
from open_miipher.base.noise import stream_keys, uniform, white_noise
from open_miipher.classifiers import CLASSIFIERS, Convolutional
from open_miipher.data.batch import LabelledBatch
from open_miipher.data.source import LabelSource
from open_miipher.recipes.recipe import Pass, Recipe, Sound

_SHIFT, _SPEED, _GAIN, _SNR, _NOISE = range(5)  # what is drawn for a clip in a step


@dataclass
class ClipAugmentConfig:
    """How clips are changed in training; each change is drawn uniformly.

    Attributes:
        shift_seconds: the most that a clip is moved, to either side.
        speed: the most that it becomes faster or slower, and higher or lower: 0.1 is 10 %.
        gain_db: of the clip.
        snr_db: of white noise that is added.
    """

    shift_seconds: float = 0.1
    speed: float = 0.1
    gain_db: tuple[float, float] = (-12.0, 6.0)
    snr_db: tuple[float, float] = (10.0, 50.0)

    def check(self) -> None:
        """Check the ranges.

        Raises:
            UserError: some make no sense.
        """
        rules = {
            "shift_seconds must not be negative": self.shift_seconds >= 0,
            "speed must lie within 0 … 0.5": 0 <= self.speed <= 0.5,
            "gain_db must go from low to high": self.gain_db[0] <= self.gain_db[1],
            "snr_db must go from low to high": self.snr_db[0] <= self.snr_db[1],
        }
        report([f"model.augment.{rule}" for rule, kept in rules.items() if not kept])


@dataclass
class ClassifierConfig:
    """What trains.

    Attributes:
        network: the classifier (name and fields).
        augment: how clips are changed.
    """

    network: dict[str, Any]
    augment: ClipAugmentConfig = field(default_factory=ClipAugmentConfig)


class Classifier(Recipe[LabelledBatch]):
    """Cross-entropy of the labels.

    Args:
        data: gives clips with labels.
        seed: of how clips are changed.
        config: what trains.
    """

    Config = ClassifierConfig
    data_kinds = (LabelledBatch,)
    score = "error_rate"
    scores = ("accuracy", "loss")
    rising = frozenset({"accuracy"})

    def __init__(self, data: LabelSource, seed: int, config: ClassifierConfig) -> None:
        super().__init__()
        config.augment.check()
        self.seed, self.augment = seed, config.augment
        self.classifier: Convolutional = self.build(
            "classifier",
            CLASSIFIERS,
            config.network,
            list(data.labels),
            round(data.crop_seconds * data.sample_rate),
            key="model.network",
        )
        if self.classifier.sample_rate != data.sample_rate:
            raise UserError(
                f"model.network.mel.sample_rate={self.classifier.sample_rate} is not "
                f"data.sample_rate={data.sample_rate}: make them equal"
            )
        self.trained["classifier"] = self.classifier

    def passes(self, batch: LabelledBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass."""
        waveform = changed(
            batch.waveform, batch.positions, self.seed, self.classifier.sample_rate, self.augment
        )
        loss = nn.functional.cross_entropy(networks["classifier"](waveform), batch.label)
        yield Pass("classifier", loss, {"cross_entropy": loss})

    def validate(self, batch: LabelledBatch) -> dict[str, float]:
        """Return the share of wrong and of right labels, and the cross-entropy."""
        logits = self.classifier(batch.waveform[:, : self.classifier.num_samples])
        accuracy = float((logits.argmax(1) == batch.label).float().mean())
        loss = nn.functional.cross_entropy(logits, batch.label)
        return {"error_rate": 1.0 - accuracy, "accuracy": accuracy, "loss": float(loss)}

    def samples(self, batch: LabelledBatch | None) -> dict[str, Sound]:
        """Return nothing: there is nothing to hear."""
        return {}


def changed(
    waveform: Tensor, positions: Tensor, seed: int, sample_rate: int, config: ClipAugmentConfig
) -> Tensor:
    """Move clips, change their speed and gain, and add white noise.

    Args:
        waveform: (batch, samples).
        positions: (batch,) int64, of the clips in the endless stream: what is drawn depends on
            these and the seed alone.
        seed: of the run.
        sample_rate: in Hz.
        config: ranges to draw from.

    Returns:
        (batch, samples), zero (and noise) where a clip was moved or shortened.
    """
    positions = positions.to(waveform.device, non_blocking=True)

    def keys(draw: int) -> Tensor:
        return stream_keys(seed, positions, draw)

    def drawn(draw: int, low: float, high: float) -> Tensor:
        return (low + (high - low) * uniform(keys(draw)))[:, None]

    num_samples = waveform.shape[1]
    most = config.shift_seconds * sample_rate
    places = torch.arange(num_samples, device=waveform.device)[None]
    speed = 1 + drawn(_SPEED, -config.speed, config.speed)
    source = (places - num_samples / 2) * speed + num_samples / 2 - drawn(_SHIFT, -most, most)
    moved = _between(waveform, source) * 10 ** (drawn(_GAIN, *config.gain_db) / 20)
    level = moved.square().mean(1, keepdim=True).sqrt() * 10 ** (drawn(_SNR, *config.snr_db) / -20)
    noise_keys = keys(_NOISE)
    return moved + level * white_noise(noise_keys, torch.zeros_like(noise_keys), num_samples)


def _between(waveform: Tensor, places: Tensor) -> Tensor:
    """Read waveforms (batch, samples) between samples, linearly; zero outside."""
    places = places.clamp(-1, waveform.shape[1])
    first = places.floor()
    padded = nn.functional.pad(waveform, (1, 2))
    index = first.long() + 1
    here, following = padded.gather(1, index), padded.gather(1, index + 1)
    return here + (places - first) * (following - here)
