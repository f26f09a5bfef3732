"""The conformer block, used by the log-mel cleaner and by the vocoder's pre-net."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from open_miipher.base.errors import UserError


class ConformerBlock(nn.Module):
    """One conformer block: half feed-forward, attention, convolution, half feed-forward, norm.

    After Gulati et al., "Conformer" (Interspeech 2020, arXiv 2005.08100), with two changes. The
    convolution module has layer norm instead of batch norm, so there are no batch statistics. The
    attention has no positional encoding: the convolution distinguishes neighbouring frames, and
    nothing in the block depends on the lengths in training.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        kernel_size: int,
        feed_forward_width: int,
        dropout: float = 0.0,
    ) -> None:
        """Create a block.

        Args:
            width: features per frame, in and out; a multiple of `num_heads`.
            num_heads: number of attention heads.
            kernel_size: frames in the depthwise convolution's kernel; odd, so that it is centred.
            feed_forward_width: hidden width of both feed-forward modules.
            dropout: probability, on the output of each module.

        Raises:
            UserError: the sizes do not fit together.
        """
        super().__init__()
        if width % num_heads or kernel_size % 2 == 0:
            raise UserError(
                f"a conformer's width={width} must be a multiple of its num_heads={num_heads}, "
                f"and its kernel_size={kernel_size} odd"
            )
        self.feed_forward_in = FeedForward(width, feed_forward_width, dropout)
        self.attention = SelfAttention(width, num_heads, dropout)
        self.convolution = Convolution(width, kernel_size, dropout)
        self.feed_forward_out = FeedForward(width, feed_forward_width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform one batch.

        Args:
            x: (batch, frames, width).
            mask: (batch, frames) bool, True for valid frames and False for padding, at least one
                True per row; None: every frame is valid.

        Returns:
            (batch, frames, width); valid frames do not depend on the values in the padding.
        """
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.attention(x, mask)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.feed_forward_out(x)
        return self.norm(x)


class FeedForward(nn.Sequential):
    """Norm, wider linear, SiLU, linear back: (batch, frames, width) -> the same shape."""

    def __init__(self, width: int, hidden_width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, hidden_width),
            nn.SiLU(),
            nn.Linear(hidden_width, width),
            nn.Dropout(dropout),
        )


class SelfAttention(nn.Module):
    """Norm and multi-head self-attention over all valid frames."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width)
        self.to_output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, width), (batch, frames) True = valid -> (batch, frames, width)."""
        batch, frames, width = x.shape
        joined = self.to_query_key_value(self.norm(x))
        heads = joined.view(batch, frames, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        keys_seen = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys_seen)
        return self.dropout(self.to_output(mixed.transpose(1, 2).reshape(batch, frames, width)))


class Convolution(nn.Module):
    """Norm, gated pointwise, depthwise convolution over time, norm, SiLU, pointwise."""

    def __init__(self, width: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(
            width, width, kernel_size, padding=kernel_size // 2, groups=width
        )
        self.norm_out = nn.LayerNorm(width)
        self.narrow = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, width), (batch, frames) True = valid -> (batch, frames, width)."""
        x = functional.glu(self.widen(self.norm_in(x)), dim=-1)
        if mask is not None:
            # Zeros, as the convolution sees them beyond the end of an unpadded clip.
            x = torch.where(mask[:, :, None], x, x.new_zeros(()))
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.narrow(functional.silu(self.norm_out(x))))
