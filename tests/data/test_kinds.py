"""`data.name` chooses the kind of data; every configuration that composes fits its kind."""

from pathlib import Path

import pytest

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.config import compose_plain, compose_run
from open_miipher.data import (
    DATA,
    Audio,
    AudioConfig,
    DegradedSpeech,
    LabelledAudio,
    LabelledAudioConfig,
    Preprocessed,
    PreprocessedConfig,
)

ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted(path.stem for path in (ROOT / "config/model").glob("*.yaml"))
KINDS = {
    "default": (DegradedSpeech, 24000),
    "preprocessed": (Preprocessed, 24000),
    "preprocessed_48k": (Preprocessed, 48000),
    "audio": (Audio, 16000),
    "labelled_audio": (LabelledAudio, 16000),
}
DEFAULTS = {Audio: AudioConfig(), LabelledAudio: LabelledAudioConfig()}


@pytest.mark.parametrize("name", KINDS)
def test_a_configuration_holds_every_key_of_its_kind_and_the_defaults(name):
    plain = compose_plain([f"data={name}", "model=demo_feature_cleaner"])["data"]
    kind, sample_rate = KINDS[name]
    built = build(DATA, plain, key="data")
    assert isinstance(built, kind)
    assert built.sample_rate == sample_rate
    assert set(plain) == set(kind.Config.__dataclass_fields__)
    if kind is Preprocessed:
        built.config.sample_rate, built.config.crop_seconds = 24000, 10.0
        assert built.config == PreprocessedConfig()
    if kind in DEFAULTS:
        built.config.crop_seconds = 1.0
        assert built.config == DEFAULTS[kind]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["preprocessed", "preprocessed_48k"])
def test_every_model_takes_shards(model, name):
    run = compose_run([f"model={model}", f"data={name}", "data.train_urls=s3://bucket/a-*.tar"])
    assert run.data.config.train_urls == "s3://bucket/a-*.tar"


@pytest.mark.parametrize(
    ("override", "urls"),
    [
        ("data.train_urls=/a/b.tar", "/a/b.tar"),
        ('data.train_urls="/a/{000..009}.tar"', "/a/{000..009}.tar"),
        ("data.train_urls=[/a/b,s3://bucket/c-*.tar]", ["/a/b", "s3://bucket/c-*.tar"]),
    ],
)
def test_urls_are_one_or_a_list(override, urls):
    run = compose_run(["model=demo_feature_cleaner", "data=preprocessed", override])
    assert run.data.config.train_urls == urls


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["data.name=tapes"],
            "data.name=tapes is unknown; choose one of audio, degraded_sp",
        ),
        (["data=preprocessed", "+data.train.dir_list=[a]"], "unknown key data.train"),
        (["data=preprocessed", "data.train_urls=3"], "data.train_urls must be a list, not 3"),
        (["data=preprocessed", "data.s3.retries=often"], "data.s3.retries='often' must be a whole"),
    ],
)
def test_wrong_keys_are_named(overrides, words):
    with pytest.raises(UserError) as caught:
        compose_run(["model=demo_feature_cleaner", *overrides])
    assert words in str(caught.value)
