"""Two recipes that the product does not have: sound from nothing, and codes from text.

They stand for the systems to come. Nothing in the trainer, the loader or the checkpoint knows them:
`register` is all that adding a system takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from open_miipher.base.noise import stream_keys, uniform, white_noise
from open_miipher.base.registry import Registry
from open_miipher.data import DATA, Batch, Order
from open_miipher.data.source import FailureLimit
from open_miipher.recipes import RECIPES, Pass, Recipe, Sound

RATE, SAMPLES = 16000, 1600
NUM_LETTERS, NUM_CODES = 30, 8
NO_FAILURES = FailureLimit(0.0, "data.nothing", "samples failed")


# Data: kinds of batches, and what makes them.


@dataclass
class AudioBatch(Batch):
    """Waveforms alone: (batch, samples) float32."""

    kind = "audio"
    waveform: Tensor
    lengths: Tensor


@dataclass
class TokenBatch(Batch):
    """Texts and codes, (batch, letters) int64 and (batch, frames) int16, and the texts' lengths."""

    kind = "text and codes"
    text: Tensor
    codes: Tensor
    lengths: Tensor


class Tones:
    """Sines of a pitch that seed, epoch and index draw."""

    failure_limits = (NO_FAILURES,)
    described = "made-up samples"

    def __init__(self, num_items: int, seed: int, shuffle: bool) -> None:
        self.num_items, self.fingerprint = num_items, f"{num_items} tones"
        self.order = Order(num_items, seed, shuffle)

    def __getitem__(self, position: int) -> np.ndarray:
        rng = np.random.default_rng((self.order.seed, *self.order.at(position)))
        t = np.arange(SAMPLES - int(rng.integers(400))) / RATE
        return np.float32(0.5) * np.sin(2 * np.pi * rng.uniform(100, 1000) * t).astype(np.float32)

    def collate(self, samples: Sequence[tuple[int, np.ndarray]]) -> AudioBatch:
        waveform = torch.zeros(len(samples), SAMPLES)
        for row, (_, tone) in zip(waveform, samples, strict=True):
            row[: len(tone)] = torch.from_numpy(tone)
        return AudioBatch(
            torch.tensor([position for position, _ in samples]),
            [f"tone {position}" for position, _ in samples],
            [],
            waveform,
            torch.tensor([len(tone) for _, tone in samples]),
        )


class Spellings(Tones):
    """Texts of random letters, and codes that repeat each letter's remainder."""

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.order.seed, *self.order.at(position)))
        text = rng.integers(NUM_LETTERS, size=int(rng.integers(3, 9)))
        return text, np.repeat(text % NUM_CODES, 2).astype(np.int16)

    def collate(self, samples: Sequence[tuple[int, tuple[np.ndarray, np.ndarray]]]) -> TokenBatch:
        pairs = [(torch.from_numpy(t), torch.from_numpy(c)) for _, (t, c) in samples]
        text, codes = (nn.utils.rnn.pad_sequence(side, True) for side in zip(*pairs, strict=True))
        return TokenBatch(
            torch.tensor([position for position, _ in samples]),
            [f"text {position}" for position, _ in samples],
            [],
            text,
            codes,
            torch.tensor([len(t) for t, _ in pairs]),
        )


@dataclass
class ItemsConfig:
    """All of `data`; `val_items=0` is no validation."""

    num_items: int = 7
    val_items: int = 3


class ToneSource:
    """`data.name=tones`."""

    Config = ItemsConfig
    batch_type = AudioBatch
    validation_key = "data.val_items"
    sample_rate = RATE
    dataset: type[Tones] = Tones

    def __init__(self, config: ItemsConfig) -> None:
        self.config = config

    def train(self, seed: int) -> Tones:
        return self.dataset(self.config.num_items, seed, True)

    def validation(self, seed: int) -> Tones | None:
        items = self.config.val_items
        return self.dataset(items, seed, False) if items else None


class SpellingSource(ToneSource):
    """`data.name=spellings`."""

    batch_type = TokenBatch
    dataset = Spellings


# Networks.


@dataclass
class WidthConfig:
    width: int = 8


class Denoiser(nn.Module):
    """Guesses the noise in a waveform: (batch, samples) -> the same."""

    Config = WidthConfig

    def __init__(self, config: WidthConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, config.width, 9, padding=4),
            nn.ReLU(),
            nn.Conv1d(config.width, 1, 9, padding=4),
        )

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        levels = level[:, None, None].expand(-1, 1, noisy.shape[1])
        return self.layers(torch.cat([noisy[:, None], levels], 1))[:, 0]


class Speller(nn.Module):
    """Codes from letters: (batch, letters) -> logits (batch, 2 · letters, codes); tied weights."""

    Config = WidthConfig

    def __init__(self, num_codes: int, config: WidthConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_LETTERS, config.width)
        self.before, self.after = (nn.Linear(config.width, config.width) for _ in range(2))
        self.after.weight = self.before.weight
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(config.width, num_codes)

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.after(self.dropout(torch.relu(self.before(self.embedding(text)))))
        return self.head(hidden).repeat_interleave(2, 1)


NETWORKS = Registry[Any]("throwaway", {"denoiser": Denoiser, "speller": Speller})


# Recipes.


@dataclass
class RecipeConfig:
    network: dict[str, Any]
    steps: int = 4
    named: dict[str, float] = field(default_factory=dict)


class Unconditional(Recipe[AudioBatch]):
    """Diffusion of waveforms in its simplest form: no encoder, and samples from nothing."""

    Config = RecipeConfig
    data_kinds = (AudioBatch,)
    score = "loss"

    def __init__(self, data: ToneSource, seed: int, config: RecipeConfig) -> None:
        super().__init__()
        self.seed, self.steps, self.rate = seed, config.steps, data.sample_rate
        network = self.build("denoiser", NETWORKS, config.network, key="model.network")
        self.trained["denoiser"] = network

    def passes(self, batch: AudioBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        keys = stream_keys(self.seed, batch.positions, 0).to(batch.waveform.device)
        noise = white_noise(keys, torch.zeros_like(keys), batch.waveform.shape[1])
        level = uniform(stream_keys(self.seed, batch.positions, 1).to(noise.device))
        noisy = (1 - level)[:, None] * batch.waveform + level[:, None] * noise
        error = (networks["denoiser"](noisy, level) - noise).square().mean(1).mean()
        yield Pass("denoiser", error, {"noise": error})

    def validate(self, batch: AudioBatch) -> dict[str, float]:
        return {"loss": float(next(self.passes(batch, self.trained)).loss)}

    def samples(self, batch: AudioBatch | None) -> dict[str, Sound]:
        device = next(self.trained["denoiser"].parameters()).device
        keys = stream_keys(self.seed, torch.arange(2), 2).to(device)
        waveform = white_noise(keys, torch.zeros_like(keys), SAMPLES)
        for step in range(self.steps, 0, -1):
            level = torch.full((2,), step / self.steps, device=device)
            waveform = waveform - self.trained["denoiser"](waveform, level) / self.steps
        return {str(number): Sound(row, self.rate) for number, row in enumerate(waveform)}


class TextToCodes(Recipe[TokenBatch]):
    """Codes from text, by cross-entropy; a sample is heard as a tone for each code."""

    Config = RecipeConfig
    data_kinds = (TokenBatch,)
    score = "loss"

    def __init__(self, data: SpellingSource, seed: int, config: RecipeConfig) -> None:
        super().__init__()
        network = self.build("speller", NETWORKS, config.network, NUM_CODES, key="model.network")
        self.trained["speller"] = network

    def passes(self, batch: TokenBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        logits = networks["speller"](batch.text)
        errors = nn.functional.cross_entropy(
            logits.transpose(1, 2), batch.codes.long(), reduction="none"
        )
        frames = 2 * batch.lengths[:, None]
        valid = torch.arange(errors.shape[1], device=errors.device) < frames
        loss = ((errors * valid).sum(1) / frames[:, 0]).mean()
        yield Pass("speller", loss, {"cross_entropy": loss})

    def validate(self, batch: TokenBatch) -> dict[str, float]:
        right = self.trained["speller"](batch.text).argmax(2) == batch.codes
        loss = next(self.passes(batch, self.trained)).loss
        return {"loss": float(loss), "accuracy": float(right.float().mean())}

    def samples(self, batch: TokenBatch | None) -> dict[str, Sound]:
        if batch is None:
            return {}
        t = torch.arange(400) / 8000
        codes = self.trained["speller"](batch.text).argmax(2)[0].cpu()
        tones = torch.sin(2 * torch.pi * 200 * (1 + codes[:, None]) * t)
        return {"spoken": Sound(tones.flatten(), 8000)}


def register() -> None:
    """Make both known to the configuration."""
    RECIPES.update(unconditional=Unconditional, text_to_codes=TextToCodes)
    DATA.update(tones=ToneSource, spellings=SpellingSource)


MODELS = {
    "tones": """\
# @package _global_
defaults: [{/optimizer@optimizer.denoiser: adamw}, _self_]
name: tones
model: {recipe: unconditional, network: {name: denoiser, width: 8}}
trainer: {batch_size: 4, max_steps: 6, num_workers: 1, log_every: 1, save_every: 3}
""",
    "spellings": """\
# @package _global_
defaults: [{/optimizer@optimizer.speller: adamw}, _self_]
name: spellings
model: {recipe: text_to_codes, network: {name: speller, width: 8}}
trainer: {batch_size: 4, max_steps: 6, num_workers: 1, log_every: 1, save_every: 3}
""",
}
SOURCES = {"tones": "name: tones\nval_items: 3\n", "spellings": "name: spellings\nval_items: 3\n"}
