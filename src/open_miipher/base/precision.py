"""True float32, where rounding would be heard or steer the training; bfloat16 for all else."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 within: without autocast, and without TF32 in what runs forward.

    bfloat16 has 8 bits, TF32 has 11: a waveform rounded so has noise 50 to 70 dB below it, evenly
    over all frequencies, which at 8 to 12 kHz is as loud as speech. Inputs are not converted.

    Args:
        device: where the tensors are.
    """
    if torch.compiler.is_compiling():  # whose code knows no switch: the trainer has TF32 off
        with torch.autocast(device.type, enabled=False):
            yield
        return
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


_FLOAT32 = "_stays_in_float32"


def stay_in_float32(*modules: nn.Module) -> None:
    """Mark modules that compute `in_float32`: `store_in_bf16` leaves their weights alone."""
    for module in modules:
        setattr(module, _FLOAT32, True)


def stays_in_float32(module: nn.Module) -> bool:
    """Whether `stay_in_float32` marked a module."""
    return getattr(module, _FLOAT32, False)


def store_in_bf16(network: nn.Module) -> None:
    """Store a network's weights in bfloat16, but for what is marked with `stay_in_float32`.

    Then it runs without autocast, which would convert every weight anew in each call. Buffers keep
    their type. Where a float32 part hands over to others, these need `as_stored`.
    """
    if stays_in_float32(network):
        return
    for parameter in network.parameters(recurse=False):
        parameter.data = parameter.data.bfloat16()
    for child in network.children():
        store_in_bf16(child)


def as_stored(x: Tensor, module: nn.Module) -> Tensor:
    """Return x in bfloat16 if a module's weights are stored so; else as it is, for autocast."""
    weight = next(module.parameters(), x)
    return x.bfloat16() if weight.dtype == torch.bfloat16 else x


def without_parametrisations(network: nn.Module) -> None:
    """Replace weights that are computed in every call, such as by weight norm, by their values."""
    for module in network.modules():
        for name in list(getattr(module, "parametrizations", ())):
            value = nn.Parameter(getattr(module, name).detach(), requires_grad=False)
            parametrize.remove_parametrizations(module, name)
            delattr(module, name)  # of frozen weights, torch leaves a tensor that is no parameter
            module.register_parameter(name, value)
