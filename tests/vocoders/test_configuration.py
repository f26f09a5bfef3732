from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from open_miipher.base.registry import build, part_config
from open_miipher.discriminators import DISCRIMINATORS
from open_miipher.vocoders import VOCODERS

CONFIG = Path(__file__).parents[2] / "config"
FILES = {kind: sorted((CONFIG / kind).glob("*.yaml")) for kind in ("vocoder", "discriminator")}
REGISTRIES = {"vocoder": VOCODERS, "discriminator": DISCRIMINATORS}


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind, paths in FILES.items() for path in paths],
    ids=lambda value: getattr(value, "stem", value),
)
def test_files_spell_out_exactly_the_fields(kind, path):
    spec = yaml.safe_load(path.read_text())
    _, config = part_config(REGISTRIES[kind], spec)
    fields = asdict(config)
    assert {k: v for k, v in spec.items() if k != "name"} == fields


@pytest.mark.parametrize(
    ("name", "width", "frame_rate", "hop", "pre_net_size"),
    [
        ("wavefit_5_ssl", 1536, 25.0, 960, 217e6),
        ("wavefit_5_ssl", 1024, 25.0, 960, 97e6),
        ("wavefit_log_mel", 128, 80.0, 300, 0),
    ],
)
def test_paper_sizes(name, width, frame_rate, hop, pre_net_size):
    spec = yaml.safe_load((CONFIG / "vocoder" / f"{name}.yaml").read_text())
    with torch.device("meta" if spec["mel"] is None else "cpu"):
        vocoder = build(VOCODERS, spec, width, frame_rate)
    sizes = {
        part: sum(p.numel() for p in network.parameters())
        for part, network in vocoder.named_children()
    }
    assert vocoder.hop_length == hop
    assert 13.8e6 < sizes["generator"] < 15.8e6
    assert sizes["pre_net"] == pytest.approx(pre_net_size, rel=0.01)


@pytest.mark.parametrize("name", ["wavefit_demo", "wavenext2_demo", "wavenext2_log_mel"])
def test_vocoders_of_log_mels_speak_the_default_one(name):
    spec = yaml.safe_load((CONFIG / "vocoder" / f"{name}.yaml").read_text())
    vocoder = build(VOCODERS, spec, 128, 80.0)
    assert vocoder.generate(torch.zeros(1, 3, 128), torch.randn(1, 900)).shape == (1, 900)
