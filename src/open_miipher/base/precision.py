"""True float32, where rounding would be heard or steer the training."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 within: without autocast, and without TF32 in what runs forward.

    bfloat16 has 8 bits, TF32 has 11: a waveform rounded so has noise 50 to 70 dB below it, evenly
    over all frequencies, which at 8 to 12 kHz is as loud as speech. Inputs are not converted.

    Args:
        device: where the tensors are.
    """
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
