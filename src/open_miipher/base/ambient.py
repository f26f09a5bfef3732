"""Values that hold within a `with` block, for all that is called there."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Ambient(Generic[T]):
    """A `ContextVar` that compiled code reads too, which cannot look into torch's or Python's own.

    Args:
        name: for debugging.
        default: outside of all blocks.
    """

    def __init__(self, name: str, default: T) -> None:
        self._own = ContextVar(name, default=default)  # of each thread and task
        self._newest = default  # of the process; compiled code runs in one thread of it

    @property
    def value(self) -> T:
        """What the innermost block around the caller has given."""
        return self._newest if torch.compiler.is_compiling() else self._own.get()

    @contextlib.contextmanager
    def given(self, value: T) -> Iterator[None]:
        """Inside the block, `value` holds."""
        before, self._newest = self._newest, value
        token = None if torch.compiler.is_compiling() else self._own.set(value)
        try:
            yield
        finally:
            self._newest = before
            if token is not None:
                self._own.reset(token)
