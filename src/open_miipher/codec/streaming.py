"""EnCodec's layers on batches of unlike lengths, piece by piece: what `transformers` makes of each.

Every layer hears the past only: a piece needs the last inputs of the piece before, and the LSTM's
state. What is special are the ends: the first convolutions see the signal's beginning reflected,
and a strided one reflects the signal's last samples to a whole number of strides, at every layer
anew. In a batch that has to happen where each item ends, and not where the batch does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)


class Stream:
    """EnCodec's encoder or decoder at work on one batch; keeps what the next piece needs.

    The first piece of a batch that has several must be longer than every kernel, and all but the
    last whole frames; then the pieces together are what the whole would be.
    """

    def __init__(self) -> None:
        self._before: dict[nn.Module, Any] = {}

    def run(self, layers: nn.ModuleList, x: Tensor, lengths: list[int]) -> Tensor:
        """Pass the next piece through layers.

        Args:
            layers: of `EncodecEncoder` or `EncodecDecoder`, with one LSTM.
            x: (batch, channels, positions).
            lengths: positions from the piece's beginning to the end of each item; negative if it
                ended before, greater than the piece if it goes on.

        Returns:
            (batch, channels, positions of the last layer); what lies beyond an item's end is noise.
        """
        # The LSTM stands outside the loops: torch.compile does not look into it, and would not
        # compile a loop around it.
        every = list(layers)
        place = [isinstance(layer, EncodecLSTM) for layer in every].index(True)
        before, lstm, after = every[:place], every[place], every[place + 1 :]
        x, lengths = self._pass_all(before, x, lengths)
        inputs = x.permute(2, 0, 1)
        outputs, self._before[lstm] = lstm.lstm(inputs, self._before.get(lstm))
        return self._pass_all(after, (outputs + inputs).permute(1, 2, 0), lengths)[0]

    def _pass_all(
        self, layers: Sequence[nn.Module], x: Tensor, lengths: list[int]
    ) -> tuple[Tensor, list[int]]:
        for layer in layers:
            x, lengths = self._pass(layer, x, lengths)
        return x, lengths

    def _pass(self, layer: nn.Module, x: Tensor, lengths: list[int]) -> tuple[Tensor, list[int]]:
        if isinstance(layer, EncodecConv1d):
            return self._convolve(layer, x, lengths)
        if isinstance(layer, EncodecConvTranspose1d):
            return self._upsample(layer, x, lengths)
        if isinstance(layer, EncodecResnetBlock):
            branch, _ = self._pass_all(layer.block, x, lengths)
            return self._pass(layer.shortcut, x, lengths)[0] + branch, lengths
        return layer(x), lengths  # an activation, or nothing

    def _convolve(
        self, layer: EncodecConv1d, x: Tensor, lengths: list[int]
    ) -> tuple[Tensor, list[int]]:
        convolution = layer.conv
        stride, width = convolution.stride[0], x.shape[2]
        left = (convolution.kernel_size[0] - 1) * convolution.dilation[0] + 1 - stride
        before = self._before.get(layer)
        is_first = before is None
        x = _reflect_start(x, lengths, left) if is_first else torch.cat([before, x], dim=2)
        if stride > 1:
            if width % stride:
                x = nn.functional.pad(x, (0, -width % stride))
            x = _reflect_ends(x, lengths, left, stride, width, is_first)
        self._before[layer] = x[..., x.shape[2] - left :]
        return convolution(x), [-(-length // stride) for length in lengths]

    def _upsample(
        self, layer: EncodecConvTranspose1d, x: Tensor, lengths: list[int]
    ) -> tuple[Tensor, list[int]]:
        convolution = layer.conv
        stride = convolution.stride[0]
        reach = (convolution.kernel_size[0] - 1) // stride  # inputs that an output hears besides
        before = self._before.get(layer)
        skipped = 0
        if before is not None:
            x, skipped = torch.cat([before, x], dim=2), before.shape[2]
        self._before[layer] = x[..., x.shape[2] - reach :]
        x = convolution(x)[..., skipped * stride : x.shape[2] * stride]
        return x, [length * stride for length in lengths]


def _reflect_start(x: Tensor, lengths: list[int], left: int) -> Tensor:
    """Put an item's reflection before it; one that is too short for it is first followed by zeros.

    Args:
        x: (batch, channels, positions).
        lengths: of the items.
        left: positions to put before.
    """
    if left == 0:
        return x
    extended = x
    if min(lengths) <= left:
        beyond = torch.arange(x.shape[2]) >= torch.tensor(lengths)[:, None]
        x = x.masked_fill(beyond[:, None].to(x.device), 0.0)
        extended = nn.functional.pad(x, (0, max(0, left + 1 - x.shape[2])))
    return torch.cat([extended[..., 1 : left + 1].flip(2), x], dim=2)


def _reflect_ends(
    x: Tensor, lengths: list[int], left: int, stride: int, width: int, is_first: bool
) -> Tensor:
    """Write each item's reflection behind its end, to a whole number of strides.

    Args:
        x: (batch, channels, left + positions).
        lengths: of the items, from position 0 on, which is x[..., left].
        left: positions of the past.
        stride: of the convolution.
        width: positions of the piece.
        is_first: nothing came before: an item that is too short to be reflected is reflected with
            the zeros that `_reflect_start` sees behind it.
    """
    if not any(0 < length <= width and length % stride for length in lengths):
        return x
    ends = torch.tensor(lengths)[:, None]
    places = ends + torch.arange(stride - 1)
    written = (ends > 0) & (ends <= width) & (places < -(-ends // stride) * stride)
    edge = ends.clamp_min(left + 1 if is_first else 0) - 1
    sources = torch.where(places <= edge, places, 2 * edge - places)
    # Where nothing is to be written, a value of the past is written onto itself.
    places, sources = (torch.where(written, t + left, 0) for t in (places, sources))
    places, sources = (
        t[:, None].expand(-1, x.shape[1], -1).to(x.device) for t in (places, sources)
    )
    return x.scatter(2, places, x.gather(2, sources))
