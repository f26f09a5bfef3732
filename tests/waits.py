"""Counts what makes a process wait for its device, on a CPU, where no time shows it."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from open_miipher.data.batch import Batch
from open_miipher.recipes import Recipe

# Operations that give a number to Python, or a tensor whose shape depends on numbers.
_WAITING = {
    "aten._local_scalar_dense",
    "aten.is_nonzero",
    "aten.nonzero",
    "aten.nonzero_static",
    "aten.masked_select",
    "aten.equal",
    "aten.unique2",
    "aten._unique2",
    "aten.bincount",
}
# On a CPU these do not pass the dispatcher.
_METHODS = ("tolist", "numpy", "cpu")


class _Listener(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        if name in _WAITING or (name.startswith("aten.index") and _has_mask(args)):
            self.seen[name] += 1
        if name == "aten.repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def _has_mask(args: tuple) -> bool:
    if len(args) > 2 and isinstance(args[2], torch.Tensor) and args[2].numel() == 1:
        return False  # x[mask] = number, which torch does as masked_fill
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the waits in the block, by the name of what waits."""
    listener = _Listener()
    with pytest.MonkeyPatch.context() as patch, listener:
        for name in _METHODS:
            stock = getattr(torch.Tensor, name)

            def told(self, *args, stock=stock, name=name, **kwargs):
                listener.seen[name] += 1
                return stock(self, *args, **kwargs)

            patch.setattr(torch.Tensor, name, told)
        yield listener.seen


def of_passes(recipe: Recipe, make_batch: Callable[[], Batch]) -> Counter[str]:
    """Count the waits of a recipe's passes, after passes that make what is made once."""
    for item in recipe.passes(make_batch(), recipe.trained):
        item.loss.backward()
    batch = make_batch()
    with counted() as seen:
        for item in recipe.passes(batch, recipe.trained):
            item.loss.backward()
    return seen
