"""Adapters training on a GPU in bfloat16, with and without recomputed layers."""

import pytest
import torch

from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["gemma4", "gemma3n", "w2v_bert", "wavlm"])
def test_adapters_train_in_bfloat16(kind, gradient_checkpointing, encoder, batch):
    waveform, lengths = (tensor.to(DEVICE) for tensor in batch)
    spec = {"name": "parallel_adapters", "bottleneck": 24}
    spec["gradient_checkpointing"] = gradient_checkpointing
    cleaner = build(CLEANERS, spec, encoder(kind)).to(DEVICE)
    trained = [p for p in cleaner.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    losses = []
    for _ in range(8):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            target, _ = cleaner.teacher(waveform, lengths)
            cleaned, _ = cleaner(waveform, lengths)
        loss = (cleaned.float() - target.float() - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
