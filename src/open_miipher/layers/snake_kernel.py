"""The kernel of `snake`, in Triton's language; imported only where it is used, on a GPU."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Elements that one program of the kernel computes: 8 a thread, 16 bytes in bfloat16."""


def launch(
    x: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    shortcut: Tensor | None,
    activated: Tensor,
    total: Tensor | None,
    smallest: float,
) -> None:
    """Start the kernel; see `snake.add_and_snake`.

    All of x, shortcut, activated and total have the same strides, and no gaps in memory. So an
    element's place in memory tells its channel, whichever of channels and samples lie side by side.
    """
    size = x.numel()
    if size:
        kernel[(triton.cdiv(size, BLOCK),)](
            *(x, alpha, bias, shortcut, activated, total),
            *(size, x.stride(1), smallest),
            CHANNELS=x.shape[1],
            BLOCK=BLOCK,
        )


@triton.jit
def kernel(  # type: ignore[no-untyped-def]
    x,
    alpha,
    bias,
    shortcut,
    activated,
    total,
    size,
    stride,
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
    # Divisions are dear: of 64 bits there is one a program, and the others are by constants where
    # channels lie side by side.
    row = (first % (stride * CHANNELS)).to(tl.int32)
    channel = (row + offsets) // stride % CHANNELS
    value = tl.load(x + places, is_within).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channel).to(tl.float32)
    if shortcut is not None:
        value += tl.load(shortcut + places, is_within).to(tl.float32)
    if total is not None:
        tl.store(total + places, value.to(total.dtype.element_ty), is_within)
    factor = tl.load(alpha + channel).to(tl.float32)
    sine = tl.sin(factor * value)
    value += sine * sine / (factor + smallest)
    tl.store(activated + places, value.to(activated.dtype.element_ty), is_within)
