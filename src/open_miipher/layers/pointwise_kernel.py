"""The kernel of `pointwise`, in Triton's language; imported only where it is used, on a GPU."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Elements that one program of the kernel computes: 8 a thread, 16 bytes in bfloat16."""


def launch(
    x: Tensor,
    alpha: Tensor | None,
    bias: Tensor | None,
    shortcut: Tensor | None,
    film: Tensor | None,
    activated: Tensor,
    total: Tensor | None,
    slope: float,
    smallest: float,
) -> None:
    """Start the kernel; see `pointwise.activate`.

    x, shortcut, activated and total have the same strides, and no gaps in memory; in film, as in
    x, either samples or channels lie side by side. So an element's place in memory tells its
    channel.
    """
    size = x.numel()
    # Where there is one channel or one sample, strides need not mean anything.
    stride = x.shape[2] if x.is_contiguous() else 1
    if size:
        kernel[(triton.cdiv(size, BLOCK),)](
            *(x, alpha, bias, shortcut, film, activated, total),
            *(size, stride, slope, smallest),
            CHANNELS=x.shape[1],
            BLOCK=BLOCK,
        )


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    x,
    alpha,
    bias,
    shortcut,
    film,
    activated,
    total,
    size,
    stride,
    slope,
    smallest,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute one block of elements; `stride` is that of the channels.

    What is None is so when this is compiled, and is not asked for at run time.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK  # a batch can have more than 32 bits count
    offsets = tl.arange(0, BLOCK)
    places = first + offsets
    is_within = places < size
    # Divisions are dear: of 64 bits there are two a program, and the others are by constants where
    # channels lie side by side.
    group = stride * CHANNELS
    inner = (first % group).to(tl.int32) + offsets
    channel = inner // stride % CHANNELS
    value = tl.load(x + places, is_within).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channel).to(tl.float32)
    if shortcut is not None:
        value += tl.load(shortcut + places, is_within).to(tl.float32)
    if total is not None:
        tl.store(total + places, value.to(total.dtype.element_ty), is_within)
    if film is not None:
        # Each group of scales is followed by as many shifts.
        scales = film + places + (first // group + inner // group) * group
        scale = tl.load(scales, is_within).to(tl.float32)
        value = scale * value + tl.load(scales + group, is_within).to(tl.float32)
    if alpha is None:
        value = tl.where(value < 0, slope * value, value)
    else:
        factor = tl.load(alpha + channel).to(tl.float32)
        sine = tl.sin(factor * value)
        value += sine * sine / (factor + smallest)
    tl.store(activated + places, value.to(activated.dtype.element_ty), is_within)
