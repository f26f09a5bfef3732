"""Lets `torch.compile` capture, differentiate and decompose, without making machine code.

Code takes minutes of a CPU for each network. Torch's own operations compute what was captured.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


def leave_out_code(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Compile to torch's operations from now on.

    Args:
        set_attribute: sets an attribute of an object; pytest's takes it back.
    """
    stock = functools.partial(torch.compile, backend="aot_eager")

    def compile_module(module: torch.nn.Module, **options: object) -> None:
        module._compiled_call_impl = stock(module._call_impl, **options)

    set_attribute(torch, "compile", stock)
    set_attribute(torch.nn.Module, "compile", compile_module)
