"""Gradients of 2 and 3 ranks equal those of 1 rank on the joined batch, for every recipe."""

import json

import pytest
import torch

pytestmark = pytest.mark.dist


def test_ranks_average_to_the_joined_batch(torchrun, tiny_stages, tmp_path):
    settings = {
        name: [*overrides, "trainer.batch_size=6"] for name, overrides in tiny_stages.items()
    }
    settings["accumulated"] = [*settings["finetune"], "trainer.grad_accumulation=2"]
    settings["accumulated"].remove("trainer.batch_size=6")
    settings["accumulated"].append("trainer.batch_size=12")
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    for ranks in (1, 2, 3):
        process = torchrun(
            "tests/dist/gradients.py", tmp_path, tmp_path / "settings.json", ranks=ranks
        )
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    for name in settings:
        losses, expected = torch.load(tmp_path / f"{name}-1.pt", weights_only=True)
        assert all(gradient is not None for gradient in expected.values()), name
        largest = max(gradient.abs().max() for gradient in expected.values())
        for ranks in (2, 3):
            own_losses, gradients = torch.load(tmp_path / f"{name}-{ranks}.pt", weights_only=True)
            assert gradients.keys() == expected.keys()
            for key, gradient in gradients.items():
                error = (gradient - expected[key]).abs().max() / largest
                assert error <= 1e-5, f"{name}, {ranks} ranks, {key}: {error:.2e}"
            for key, loss in own_losses.items():
                assert loss == pytest.approx(losses[key], rel=1e-5, abs=1e-6), (name, key)
