"""w2v-BERT's self-attention in one fused kernel, with its relative positions passed as a mask."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RelativeKeyAttention(nn.Module):
    """Self-attention with logits q·k + q·e(distance); e is learnt and constant at large distances.

    The stock module looks e up for every pair of frames, (frames, frames, head size), before it
    multiplies. Here each query is multiplied with each distance once, and the products are read
    along diagonals. The weights and their names are those of the stock module.
    """

    def __init__(self, stock: Any) -> None:
        """Take the weights of a `Wav2Vec2BertSelfAttention` with `relative_key` positions."""
        super().__init__()
        self.num_heads, self.head_size = stock.num_heads, stock.head_size
        self.farthest = (stock.left_max_position_embeddings, stock.right_max_position_embeddings)
        self.linear_q, self.linear_k = stock.linear_q, stock.linear_k
        self.linear_v, self.linear_out = stock.linear_v, stock.linear_out
        self.distance_embedding = stock.distance_embedding

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: None = None,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            hidden_states: (batch, frames, width).
            attention_mask: (batch, 1, frames, frames) bool, True = visible; None: all are.
            relative_position_embeddings: always None; only other kinds of positions use it.

        Returns:
            (batch, frames, width), and None in place of attention weights.
        """
        query, key, value = (
            linear(hidden_states).unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        bias = self.position_bias(query)
        if attention_mask is not None:
            # Not -inf: a row without any visible frame must stay finite.
            bias = bias.masked_fill(~attention_mask, torch.finfo(bias.dtype).min)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.contiguous()
        )
        return self.linear_out(attended.transpose(1, 2).flatten(2)), None

    def position_bias(self, query: Tensor) -> Tensor:
        """(batch, heads, frames, head size) -> (batch, heads, frames, frames), scaled logits."""
        num_frames = query.shape[2]
        left, right = self.farthest
        # One distance more than necessary, so that the diagonals can be read as rows below.
        distances = torch.arange(1 - num_frames, num_frames + 1, device=query.device)
        positions = self.distance_embedding(distances.clamp(-left, right) + left).to(query.dtype)
        logits = (query * self.head_size**-0.5) @ positions.T
        # logits[l, d] belongs to key frame l + d - (frames - 1), so each row is shifted by one.
        size = num_frames * (2 * num_frames - 1)
        skewed = logits.flatten(-2)[..., num_frames - 1 :][..., :size]
        return skewed.unflatten(-1, (num_frames, -1))[..., :num_frames]
