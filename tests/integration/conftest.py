"""A whole chain, tiny and of random weights, in a real checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch

from open_miipher.base.registry import build
from open_miipher.checkpoint import Blueprint, Content, write_checkpoint
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import ENCODERS
from open_miipher.vocoders import VOCODERS

MEL = {"sample_rate": 24000, "hop_length": 300, "n_mels": 16}


def chain_specs(gain: str) -> dict[str, dict[str, Any]]:
    """The parts of a chain at 24 kHz with 80 frames a second."""
    generator = {
        "condition_channels": 8,
        "stem_channels": 4,
        "down_channels": [4],
        "up_channels": [8, 4],
        "up_factors": [15, 20],
        "dilations": [[1, 2, 1, 2]] * 2,
    }
    return {
        "encoder": {"name": "log_mel", **MEL},
        "cleaner": {
            "name": "conformer",
            "width": 16,
            "num_blocks": 1,
            "num_heads": 2,
            "feed_forward_width": 16,
        },
        "vocoder": {
            "name": "wavefit",
            "num_iterations": 1,
            "gain": gain,
            "mel": MEL if gain == "power" else None,
            "generator": generator,
        },
    }


def write_chain(root: Path, gain: str = "power", seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint of a random chain.

    Args:
        root: gets `ckpt/step-00000007` and `ckpt/latest`, as a run's output directory does.
        gain: of the vocoder.
        seed: of the weights.
        **changes: `fingerprint` of the encoder, or `weights`, to put in their place.

    Returns:
        `root`.
    """
    torch.manual_seed(seed)
    specs = chain_specs(gain)
    encoder = build(ENCODERS, specs["encoder"])
    cleaner = build(CLEANERS, specs["cleaner"], encoder)
    frame_rate = encoder.sample_rate / encoder.hop_length
    vocoder = build(VOCODERS, specs["vocoder"], encoder.width, frame_rate)
    for parameter in (*cleaner.parameters(), *vocoder.parameters()):
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    weights = {"cleaner": cleaner.trained_state_dict(), "generator": vocoder.state_dict()}
    ema = {"generator": {name: 0.9 * tensor for name, tensor in weights["generator"].items()}}
    fingerprint = changes.get("fingerprint", encoder.fingerprint())
    kept = changes.get("weights", weights)
    networks = {
        "encoder": Blueprint("encoder", specs["encoder"], [], fingerprint),
        "cleaner": Blueprint("cleaner", specs["cleaner"], [{"network": "encoder"}]),
        "generator": Blueprint("vocoder", specs["vocoder"], [encoder.width, frame_rate]),
    }
    content = Content(
        config={"model": specs, "data": {"sample_rate": 24000}},
        state={"step": 7},
        weights=kept,
        ema=ema if "generator" in kept else {},
        networks={name: networks[name] for name in ("encoder", *kept)},
    )
    write_checkpoint(root / "ckpt", content)
    return root


@pytest.fixture
def make_chain():
    """The function `write_chain`."""
    return write_chain


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run whose checkpoint is a tiny chain with levels."""
    return write_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def peak_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of a vocoder whose output comes at a fixed peak."""
    return write_chain(tmp_path_factory.mktemp("peak"), gain="peak")
