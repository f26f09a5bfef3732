"""Counts what a GPU would launch and move, by tensors that have shapes and no contents."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Give a tensor another shape, or memory that nothing is written to yet.
_FREE = {"_reshape_alias", "_unsafe_view", "device", "empty", "empty_like", "empty_strided"}


class Work(TorchDispatchMode):
    """Counts, within the block, what is launched and moved on the device.

    An operation counts as one kernel, which reads each of its arguments once and writes each of
    its results once. A convolution with a bias counts as two, as torch adds it in another.

    Attributes:
        kernels: by the name of the operation.
        bytes: the same, in bytes.
        from_host: operations that take what lies in the host's memory, but for single numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.from_host: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if name in _FREE or function.is_view or all(x.device.type == "cpu" for x in tensors):
            return result
        if any(x.device.type == "cpu" and x.ndim for x in tensors):
            self.from_host[name] += 1
        has_bias = name == "convolution" and args[2] is not None
        self.kernels[name] += 1 + has_bias
        self.bytes[name] += sum(map(_size, tensors)) + (2 * _size(result) if has_bias else 0)
        return result


def _size(x: torch.Tensor) -> int:
    """Return the bytes of what is stored: an expanded dimension is stored once."""
    strides = zip(x.shape, x.stride(), strict=True)
    return x.element_size() * math.prod(length for length, stride in strides if stride)


@contextlib.contextmanager
def pretended_gpu(*networks: nn.Module) -> Iterator[dict[str, Any]]:
    """Move networks to a GPU that there is not; yield the keywords that make tensors there."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for module in (module for network in networks for module in network.modules()):
            for own in (module._parameters, module._buffers):
                for name, x in own.items():
                    if x is not None:
                        there = torch.empty_like(x, device="cuda")
                        own[name] = nn.Parameter(there) if isinstance(x, nn.Parameter) else there
        yield {"device": "cuda"}
