"""config/data/default.yaml: complete, and what it says about shares is true."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from open_miipher.base.errors import UserError
from open_miipher.base.registry import from_mapping
from open_miipher.data import DataConfig
from open_miipher.degradation import Context, Trace, build_degradation

PATH = Path(__file__).resolve().parents[2] / "config/data/default.yaml"


@pytest.fixture
def plain():
    return OmegaConf.to_container(OmegaConf.load(PATH), resolve=True)


def test_it_holds_every_key_and_the_defaults(plain):
    config = from_mapping(DataConfig, plain, "data")
    config.check()
    stages = config.degradation.stages
    config.degradation.stages = {}
    assert config == DataConfig()
    assert set(plain) == set(DataConfig.__dataclass_fields__)
    assert list(stages) == [
        *("reverb", "noise", "clipping", "low_pass", "band_limit", "codec", "packet_loss")
    ]


def test_test_noise_and_rooms_follow_the_train_ones():
    config = OmegaConf.load(PATH)
    config.train.noise_dir_list = ["noise"]
    config.train.rir_dir_list = ["rir"]
    resolved = OmegaConf.to_container(config, resolve=True)
    assert resolved["test"]["noise_dir_list"] == ["noise"]
    assert resolved["test"]["rir_dir_list"] == ["rir"]


def test_every_stage_builds_and_none_fails(plain):
    config = from_mapping(DataConfig, plain, "data").degradation
    config.max_stages = 99
    for stage in config.stages.values():
        stage["probability"] = 1.0
    waveform = np.random.default_rng(0).standard_normal(2400).astype(np.float32)
    trace = Trace(waveform)
    build_degradation(config, Context(24000))(waveform, np.random.default_rng(0), trace)
    assert len(trace.drawn) == 7
    assert trace.failures == []


def test_shares_of_the_paper(plain):
    config = from_mapping(DataConfig, plain, "data").degradation
    chain = build_degradation(config, Context(24000))
    clean = np.prod([1 - stage.probability for stage in chain.stages])
    assert clean == pytest.approx(0.05, abs=0.002)
    rng = np.random.default_rng(0)
    reverb = chain.stages[0].stage
    drawn = [chain._drawn(rng) for _ in range(4000)]
    assert max(len(stages) for stages in drawn) == 3
    assert np.mean([not stages for stages in drawn]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([reverb in stages for stages in drawn]) == pytest.approx(0.5, abs=0.025)


def test_a_crop_without_samples_is_refused():
    with pytest.raises(UserError, match=r"data\.crop_seconds must be at least 0\.001"):
        DataConfig(crop_seconds=1e-5).check()
