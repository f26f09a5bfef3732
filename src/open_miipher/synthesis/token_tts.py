"""Text to the tokens of a codec: a transformer reads bytes and writes codes, one after the other.

Text comes as ByT5 has it (Xue et al. 2022, arXiv 2105.13626): bytes of UTF-8 plus 3, 0 the padding
and 1 the end, and no phonemes. An encoder hears all of it, in both directions; a causal decoder
(Vaswani et al. 2017, arXiv 1706.03762) says the codes in the order of time: the first frame's, by
codebook, then the second's. Every codebook has a table of its own, by which its codes are both read
and written; so at the place of a codebook no other's can come out. What marks the beginning and the
end is no code: the beginning is only read, and the end only written, where a frame could begin.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import UserError

NUM_BYTE_IDS = 384
"""Of ByT5's table: 3 marks, 256 bytes, and 125 that nobody uses here."""


@dataclass
class StackConfig:
    """The sizes of the encoder or the decoder.

    Attributes:
        layers: how many.
        heads: of each attention.
        width: a multiple of `heads`; feed-forward layers are four times as wide.
    """

    layers: int
    heads: int
    width: int


@dataclass
class TokenTTSConfig:
    """The sizes of a `TokenTTS`.

    Attributes:
        encoder: reads text.
        decoder: writes codes.
    """

    encoder: StackConfig = field(default_factory=lambda: StackConfig(4, 8, 128))
    decoder: StackConfig = field(default_factory=lambda: StackConfig(6, 12, 192))


class TokenTTS(nn.Module):
    """Text to codes.

    Args:
        codebooks: codes a frame.
        codebook_size: codes are 0 … codebook_size - 1.
        num_frames: the most that it can say.
        max_bytes: the most that a text has, in UTF-8.
        longest_text: bytes of the longest one that it learns from; longer ones it cannot say in
            `num_frames`.
        config: sizes.

    Raises:
        UserError: a size makes no sense.
    """

    Config = TokenTTSConfig

    def __init__(
        self,
        codebooks: int,
        codebook_size: int,
        num_frames: int,
        max_bytes: int,
        longest_text: int,
        config: TokenTTSConfig,
    ) -> None:
        super().__init__()
        for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
            if min(stack.layers, stack.heads, stack.width) < 1 or stack.width % stack.heads:
                raise UserError(
                    f"model.network.{name} has layers={stack.layers}, heads={stack.heads} and "
                    f"width={stack.width}: all must be at least 1, and width a multiple of heads"
                )
        self.codebooks, self.codebook_size = codebooks, codebook_size
        self.num_frames, self.max_bytes, self.longest_text = num_frames, max_bytes, longest_text
        narrow, wide = config.encoder.width, config.decoder.width
        self.byte_table = nn.Embedding(NUM_BYTE_IDS, narrow)
        self.byte_places = nn.Parameter(_waves(max_bytes + 1, narrow))
        self.encoder = nn.ModuleList(
            EncoderLayer(narrow, config.encoder.heads) for _ in range(config.encoder.layers)
        )
        self.encoder_norm = nn.LayerNorm(narrow)
        self.bridge = nn.Linear(narrow, wide)
        self.code_tables = nn.ModuleList(
            nn.Embedding(codebook_size, wide) for _ in range(codebooks)
        )
        self.code_places = nn.Parameter(_waves(num_frames * codebooks, wide))
        self.start = nn.Parameter(torch.randn(wide) * wide**-0.5)
        self.end = nn.Parameter(torch.randn(1, wide) * wide**-0.5)
        self.decoder = nn.ModuleList(
            DecoderLayer(wide, config.decoder.heads) for _ in range(config.decoder.layers)
        )
        self.decoder_norm = nn.LayerNorm(wide)
        # Of the first codebook's place there is one more: the end.
        self.biases = nn.ParameterList(
            torch.zeros(codebook_size + (book == 0)) for book in range(codebooks)
        )
        _initialise(self)

    def forward(self, text: Tensor, text_lengths: Tensor, codes: Tensor) -> list[Tensor]:
        """Guess each code from the text and the codes before it.

        Args:
            text: (batch, bytes) int64, ids; what lies beyond `text_lengths` changes nothing.
            text_lengths: (batch,) int64, the end's mark included.
            codes: (batch, frames, codebooks) int64, at most `num_frames`.

        Returns:
            For each codebook, logits (batch, frames + 1, codes) of every frame and the one that
            would follow; without that one where all `num_frames` are given, and for codebooks after
            the first. The first codebook's have the end as one more code, the last.
        """
        memory, mask = self.encode(text, text_lengths)
        read = torch.stack([table(codes[..., k]) for k, table in enumerate(self.code_tables)], 2)
        x = torch.cat([self.start.expand(len(codes), 1, -1), read.flatten(1, 2)], 1)
        x = _placed(x[:, : self.num_frames * self.codebooks], self.code_places)
        for layer in self.decoder:
            x = layer(x, layer.cross.keys_values(memory), mask)
        x = self.decoder_norm(x)
        return [self.logits(x[:, book :: self.codebooks], book) for book in range(self.codebooks)]

    def encode(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read text.

        Returns:
            (batch, bytes, decoder's width), and which of these are no padding: (batch, 1, 1, bytes)
            bool.
        """
        places = torch.arange(text.shape[1], device=text.device)
        mask = (places < text_lengths[:, None])[:, None, None]
        x = _placed(self.byte_table(text), self.byte_places)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.bridge(self.encoder_norm(x)), mask

    def step(self, codes: Tensor | None, cache: "Cache") -> Tensor:
        """Guess the next code of each item.

        Args:
            codes: (batch,) int64, the codes that were said last; None: none was.
            cache: of all before; this step is added to it.

        Returns:
            Logits as those of `forward`, (batch, codes).
        """
        place = cache.length
        if codes is None:
            x = self.start.expand(cache.batch, 1, -1)
        else:
            x = self.code_tables[(place - 1) % self.codebooks](codes)[:, None]
        x = _placed(x, self.code_places[place:])
        for number, layer in enumerate(self.decoder):
            x = layer.step(x, cache, number)
        cache.length += 1
        return self.logits(self.decoder_norm(x)[:, 0], place % self.codebooks)

    def logits(self, x: Tensor, book: int) -> Tensor:
        """Return the logits of a codebook's codes, with the end where a frame could begin."""
        table = self.code_tables[book].weight
        if book == 0:
            table = torch.cat([table, self.end])
        return functional.linear(x, table, self.biases[book]).float()


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values, (batch, heads, places, width of a head), of what is heard."""
        keys, values = self.key_value(x).chunk(2, -1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        x: Tensor,
        heard: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Let every place of `x` (batch, places, width) attend to what is heard."""
        y = functional.scaled_dot_product_attention(
            self._split(self.query(x)), *heard, attn_mask=mask, is_causal=is_causal
        )
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention to all of the text, and a feed-forward layer; norms come first."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.feed_forward = _feed_forward(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Transform (batch, bytes, width)."""
        y = self.norm(x)
        x = x + self.attention(y, self.attention.keys_values(y), mask)
        return x + self.feed_forward(x)


class DecoderLayer(nn.Module):
    """Attention to what was said, then to the text, and a feed-forward layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm, self.cross_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.cross = Attention(width, num_heads)
        self.feed_forward = _feed_forward(width)

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Transform (batch, codes, width), all at once.

        Args:
            x: what was said; a place hears those before it.
            text: its keys and values.
            mask: which of it is no padding.
        """
        y = self.norm(x)
        x = x + self.attention(y, self.attention.keys_values(y), is_causal=True)
        return self._rest(x, text, mask)

    def step(self, x: Tensor, cache: "Cache", number: int) -> Tensor:
        """Transform the newest code, (batch, 1, width); `number` is this layer's."""
        y = self.norm(x)
        x = x + self.attention(y, cache.add(number, *self.attention.keys_values(y)))
        return self._rest(x, cache.text[number], cache.mask)

    def _rest(self, x: Tensor, text: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self.cross(self.cross_norm(x), text, mask)
        return x + self.feed_forward(x)


class Cache:
    """Keys and values of what was said and of the text: no code is worked on twice.

    Args:
        network: of which it is.
        text: (batch, bytes) int64, ids.
        text_lengths: (batch,) int64.
        num_codes: the most that will be said.
        copies: of each item, one after the other.

    Attributes:
        length: codes that are in it.
        batch: of items and copies.
        text: keys and values of the text, for each layer.
        mask: which of it is no padding.
    """

    def __init__(
        self,
        network: TokenTTS,
        text: Tensor,
        text_lengths: Tensor,
        num_codes: int,
        copies: int = 1,
    ) -> None:
        memory, mask = network.encode(text, text_lengths)
        memory, self.mask = memory.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        self.length, self.batch = 0, len(memory)
        self.text = [layer.cross.keys_values(memory) for layer in network.decoder]
        shape = list(self.text[0][0].shape)
        shape[2] = num_codes
        self._said = [(memory.new_zeros(shape), memory.new_zeros(shape)) for _ in network.decoder]

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest code's to a layer; returns those of all codes."""
        end = self.length + 1
        for held, new in zip(self._said[layer], (keys, values), strict=True):
            held[:, :, self.length : end] = new
        all_keys, all_values = self._said[layer]
        return all_keys[:, :, :end], all_values[:, :, :end]

    def choose(self, rows: Tensor) -> None:
        """Let every row go on from another one: (batch,) int64, all of the same item."""
        for held in (tensor for pair in self._said for tensor in pair):
            held[:, :, : self.length] = held[rows, :, : self.length]


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    )


def _placed(x: Tensor, places: Tensor) -> Tensor:
    """Add the vectors of places to embeddings, (batch, places, width), made as large as these."""
    return x * math.sqrt(x.shape[-1]) + places[: x.shape[1]]


def _waves(places: int, width: int) -> Tensor:
    """Return the sines and cosines of the paper, with which the vectors of places begin."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(places)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


def _initialise(network: TokenTTS) -> None:
    """Draw first weights that leave a signal as large as it was."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
