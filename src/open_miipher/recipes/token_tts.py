"""Text to speech by tokens: a transformer learns to say texts in the codes of a frozen codec."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.checkpoint import Blueprint
from open_miipher.codec import AudioTokenizer
from open_miipher.data.batch import TokenBatch
from open_miipher.data.tokens import Tokens
from open_miipher.recipes.recipe import Pass, Recipe, Sound
from open_miipher.synthesis import SYNTHESISERS, SamplingConfig, TokenTTS, sample


@dataclass
class TokenTTSRecipeConfig:
    """What trains.

    Attributes:
        network: the text-to-speech network (name and fields).
    """

    network: dict[str, Any]


class TokenTTSRecipe(Recipe[TokenBatch]):
    """Cross-entropy of each code, given the text and the codes before it.

    Args:
        data: gives texts with tokens, which were made; and the codec that made them.
        seed: of the run; nothing is drawn.
        config: what trains.
    """

    Config = TokenTTSRecipeConfig
    data_kinds = (TokenBatch,)
    score = "loss"
    scores = ("accuracy",)
    rising = frozenset({"accuracy"})

    def __init__(self, data: Tokens, seed: int, config: TokenTTSRecipeConfig) -> None:
        super().__init__()
        self.codec, codec_config = data.tokenizer, data.config.codec
        self.base["codec"] = _Codec(self.codec)
        spec = {"name": "encodec", **vars(codec_config)}
        self._blueprints["codec"] = Blueprint("codec", spec)
        self.network: TokenTTS = self.build(
            "token_tts",
            SYNTHESISERS,
            config.network,
            self.codec.codebooks,
            self.codec.codebook_size,
            data.num_frames,
            data.config.max_text_bytes,
            data.longest_text,
            key="model.network",
        )
        self.trained["token_tts"] = self.network

    def passes(self, batch: TokenBatch, networks: Mapping[str, nn.Module]) -> Iterator[Pass]:
        """Yield the one pass."""
        logits = networks["token_tts"](batch.text, batch.text_lengths, batch.codes)
        scores = [
            cross_entropy(own, *self._targets(batch, book)) for book, own in enumerate(logits)
        ]
        losses = {f"codebook_{book}": own.mean() for book, own in enumerate(scores)}
        yield Pass("token_tts", torch.stack(scores).mean(), losses)

    def validate(self, batch: TokenBatch) -> dict[str, float]:
        """Return the loss, and the share of codes that are guessed right."""
        logits = self.network(batch.text, batch.text_lengths, batch.codes)
        losses, hits = [], []
        for book, own in enumerate(logits):
            targets, counts = self._targets(batch, book)
            losses.append(cross_entropy(own, targets, counts))
            right = (own.argmax(-1) == targets).float() * counts
            hits.append(right.sum(1) / counts.sum(1))
        return {
            "loss": float(torch.stack(losses).mean()),
            "accuracy": float(torch.stack(hits).mean()),
        }

    def samples(self, batch: TokenBatch | None) -> dict[str, Sound]:
        """Return a clip as its tokens have it, and its text as the model says it."""
        if batch is None:
            return {}
        spoken = sample(
            self.network, batch.text, batch.text_lengths, batch.positions, SamplingConfig()
        )
        original = batch.codes[0, : int(batch.code_lengths[0])]
        sounds = self.codec.decode([original.cpu(), spoken[0]])
        return {
            name: Sound(sound, self.codec.sample_rate)
            for name, sound in zip(("original", "spoken"), sounds, strict=True)
        }

    def _targets(self, batch: TokenBatch, book: int) -> tuple[Tensor, Tensor]:
        """Return what a codebook's guesses are to be, and 1 for those that count, else 0.

        After the last frame comes the end, where a frame could begin; speech that is as long as the
        model can say has none.
        """
        codes, lengths = batch.codes[..., book], batch.code_lengths
        if book == 0 and codes.shape[1] < self.network.num_frames:
            codes = functional.pad(codes, (0, 1))
        places = torch.arange(codes.shape[1], device=codes.device)
        if book == 0:
            is_end = places == lengths[:, None]
            codes = codes.masked_fill(is_end, self.network.codebook_size)
            lengths = lengths + 1
        return codes, (places < lengths[:, None]).float()


def cross_entropy(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Return each sample's mean cross-entropy: (batch,).

    Args:
        logits: (batch, places, codes).
        targets: (batch, places) int64.
        counts: (batch, places), 1 for places that count, else 0.
    """
    values = functional.cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none")
    return (values * counts).sum(1) / counts.sum(1)


class _Codec(nn.Module):
    """The codec as a checkpoint knows it: by the fingerprint of its weights."""

    def __init__(self, codec: AudioTokenizer) -> None:
        super().__init__()
        self._fingerprint = codec.fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint
