"""config/data/webdataset_preprocess_*.yaml: complete, and the chain is the paper's."""

import numpy as np
import pytest

from open_miipher.config import compose_preprocessing
from open_miipher.corpus.preprocessing.config import PreprocessingOptions
from open_miipher.data.config import PreprocessingData
from open_miipher.degradation import Context, DegradationConfig, Trace, build_degradation


@pytest.mark.parametrize(("name", "rate"), [("24k", 24000), ("48k", 48000)])
def test_it_holds_every_key_and_the_defaults(name, rate):
    config = compose_preprocessing([f"data=webdataset_preprocess_{name}"])
    assert set(config.plain["data"]) == set(PreprocessingData.__dataclass_fields__)
    assert set(config.plain["preprocess"]) == set(PreprocessingOptions.__dataclass_fields__)
    assert config.options == PreprocessingOptions()
    config.data.degradation = DegradationConfig()
    assert config.data == PreprocessingData(sample_rate=rate)


@pytest.mark.parametrize(("name", "rate"), [("24k", 24000), ("48k", 48000)])
def test_every_stage_takes_part_in_half_of_the_crops_in_order(name, rate):
    config = compose_preprocessing([f"data=webdataset_preprocess_{name}"]).data.degradation
    chain = build_degradation(config, Context(rate))
    assert [stage.probability for stage in chain.stages] == [0.5] * 6
    rng = np.random.default_rng(0)
    counts = [len(chain._drawn(rng)) for _ in range(2000)]
    assert np.mean(counts) == pytest.approx(3.0, abs=0.1)
    assert max(counts) == 6
    for stage in config.stages.values():
        stage["probability"] = 1.0
    waveform = (0.1 * np.random.default_rng(1).standard_normal(rate)).astype(np.float32)
    trace = Trace(waveform)
    build_degradation(config, Context(rate))(waveform, rng, trace)
    assert trace.failures == []
    assert [entry["name"] for entry in trace.drawn] == [
        *("reverb", "noise", "band_limit", "quantile_clipping", "mp3_vbr", "packet_loss")
    ]


def test_the_longest_decay_is_not_cut():
    """Rooms end where they have decayed by 60 dB, so `seconds` must be as long as the longest."""
    reverb = compose_preprocessing(["data=webdataset_preprocess_48k"]).data.degradation.stages[
        "reverb"
    ]
    assert reverb["seconds"] >= reverb["rt60"][1]


def test_rooms_and_noise_of_the_test_follow_those_of_training():
    config = compose_preprocessing(
        ["data=webdataset_preprocess_48k", "data.train.rir_dir_list=[rooms]"]
    )
    assert config.data.test.rir_dir_list == ["rooms"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("preprocess.output_root='s3://bucket/x'", "must be a folder of this machine"),
        ("preprocess.output_root='gs://bucket/x'", "must be a folder of this machine"),
        ("preprocess.max_failures=many", "preprocess.max_failures=many must be a whole number"),
        ("preprocess.max_failures=-1", "preprocess.max_failures=-1 must be a whole number"),
    ],
)
def test_wrong_options_are_named(override, says):
    given = ["data=webdataset_preprocess_24k", "preprocess.writer_name=w"]
    options = compose_preprocessing([*given, "preprocess.output_root=x", override]).options
    (problem,) = options.problems()
    assert says in problem


@pytest.mark.parametrize(("limit", "status"), [("1", 0), ("'0.5%'", 3), ("50%", 0)])
def test_so_many_inputs_may_fail(limit, status):
    given = ["data=webdataset_preprocess_24k", f"preprocess.max_failures={limit}"]
    assert compose_preprocessing(given).options.allowed.status(1, 2) == status
