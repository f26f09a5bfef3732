"""Folders that only restore: what they hold, and what restores from them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import Registry, build
from open_miipher.base.shipped import shipped
from open_miipher.checkpoint import Blueprint, Checkpoint, Content, write_checkpoint
from open_miipher.cleaners import CLEANERS
from open_miipher.config import compose_run
from open_miipher.encoders import ENCODERS
from open_miipher.exporting import Contents, export_folder
from open_miipher.restoration import Chain, Restorer
from open_miipher.vocoders import VOCODERS

DEFAULT = shipped("pretrained/default")
MEL = {"sample_rate": 24000, "hop_length": 300, "n_mels": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return export_folder(Checkpoint.open(DEFAULT), tmp_path_factory.mktemp("exported") / "folder")


def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(20_000)).astype(np.float32)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*"))


def test_the_default_model_restores_the_same_from_a_quarter_of_its_size(folder):
    before, after = (Restorer.from_checkpoint(p, device="cpu") for p in (DEFAULT, folder))
    assert np.array_equal(before.restore(noise(), 24000)[0], after.restore(noise(), 24000)[0])
    assert before.model.fingerprint == f"default-{after.model.fingerprint}"
    assert size_of(folder) < 0.3 * size_of(DEFAULT)
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "cleaner.safetensors", "config.yaml"),
        *("files.json", "networks.json", "state.json"),
    }
    Checkpoint.open(folder).verify()


def test_nothing_tells_of_the_machine_that_trained(folder):
    for name in ("config.yaml", "state.json", "networks.json", "README.md"):
        text = (folder / name).read_text()
        assert "output/" not in text
        assert "run_name" not in text


def test_a_run_cannot_go_on_from_it_but_can_start_from_it(folder):
    with pytest.raises(UserError, match=r"cannot go on; .*trainer\.init_from="):
        compose_run(["model=small_restorer", f"trainer.ckpt_dir={folder}"])
    assert Checkpoint.open(folder).weights("cleaner").keys()


def test_a_folder_that_holds_something_is_left_alone(folder, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UserError, match="exists and is not empty: choose another folder"):
        export_folder(Checkpoint.open(DEFAULT), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_half_the_size_sounds_alike(folder, tmp_path):
    half = export_folder(Checkpoint.open(DEFAULT), tmp_path / "half", Contents(half=True))
    assert size_of(half) < 0.52 * size_of(folder)
    whole, halved = (
        Restorer.from_pretrained(path, device="cpu").restore(noise(), 24000)[0]
        for path in (folder, half)
    )
    assert 0 < np.abs(whole - halved).max() < 1e-3


def test_the_weights_that_a_restorer_has_are_those_that_it_saves(tmp_path):
    plain = Restorer.from_checkpoint(device="cpu", ema=False)
    saved = plain.save_pretrained(tmp_path / "plain")
    again = Restorer.from_pretrained(saved, device="cpu")
    assert plain.model.fingerprint == f"default-{again.model.fingerprint}"
    stand_in = Restorer(plain.model)
    stand_in.model.checkpoint = None
    with pytest.raises(UserError, match="is not from a checkpoint"):
        stand_in.save_pretrained(tmp_path / "none")


@dataclass
class _Config:
    width: int = 2


class _Judge(nn.Linear):
    Config = _Config

    def __init__(self, config: _Config) -> None:
        super().__init__(config.width, 1)


def test_discriminators_stay_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Registry, "of_kind", dict(Registry.of_kind))
    for kind in ("vocoder", "discriminator"):
        Registry[Any](kind, {"judge": _Judge})
    weights = {name: _Judge(_Config()).state_dict() for name in ("generator", "judge")}
    networks = {
        "generator": Blueprint("vocoder", {"name": "judge"}),
        "judge": Blueprint("discriminator", {"name": "judge"}),
    }
    content = Content({"name": "x", "model": {}}, {"step": 1}, weights, networks=networks)
    written = write_checkpoint(tmp_path, content)
    exported = Checkpoint.open(export_folder(Checkpoint.open(written), tmp_path / "out"))
    assert exported.names == list(exported.networks) == ["generator"]


def write_ssl_chain(root: Path) -> tuple[Path, Path]:
    """Write a tiny WavLM, and a checkpoint of a chain on it."""
    import transformers

    source = root / "wavlm"
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"intermediate_size": 48, "num_conv_pos_embeddings": 16}
    groups = {"conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    transformers.WavLMModel(transformers.WavLMConfig(**size, **more, **groups)).save_pretrained(
        source
    )
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(source)
    specs: dict[str, dict[str, Any]] = {
        "encoder": {"name": "transformers", "source": str(source), "layer": 1},
        "cleaner": {"name": "lora", "rank": 2},
        "vocoder": {
            "name": "wavefit",
            "num_iterations": 1,
            "sample_rate": 24000,
            "generator": {
                "condition_channels": 8,
                "stem_channels": 4,
                "down_channels": [4],
                "up_channels": [8, 4],
                "up_factors": [24, 20],
                "dilations": [[1, 2, 1, 2]] * 2,
            },
        },
    }
    encoder = build(ENCODERS, specs["encoder"])
    cleaner = build(CLEANERS, specs["cleaner"], encoder)
    vocoder = build(VOCODERS, specs["vocoder"], encoder.width, encoder.frame_rate)
    networks = {
        "encoder": Blueprint("encoder", specs["encoder"], [], encoder.fingerprint()),
        "cleaner": Blueprint("cleaner", specs["cleaner"], [{"network": "encoder"}]),
        "generator": Blueprint("vocoder", specs["vocoder"], [encoder.width, encoder.frame_rate]),
    }
    weights = {"cleaner": cleaner.trained_state_dict(), "generator": vocoder.state_dict()}
    config = {"name": "tiny", "model": specs}
    return source, write_checkpoint(root, Content(config, {"step": 1}, weights, networks=networks))


def test_an_encoder_comes_along_or_is_named(tmp_path):
    source, written = write_ssl_chain(tmp_path)
    checkpoint = Checkpoint.open(written)
    fingerprint = Chain.from_checkpoint(checkpoint).fingerprint
    with pytest.raises(UserError, match=r"a folder of this machine: pass --with-encoder"):
        export_folder(checkpoint, tmp_path / "out")
    whole = export_folder(checkpoint, tmp_path / "out", Contents(with_encoder=True))
    named = export_folder(
        checkpoint,
        tmp_path / "named",
        Contents(encoder_source="microsoft/wavlm-large", licence="mit"),
    )
    card = (named / "README.md").read_text()
    assert "base_model: microsoft/wavlm-large" in card
    assert "`microsoft/wavlm-large`: CC BY-SA 3.0" in card
    assert "license: mit" in card
    assert str(tmp_path) not in (whole / "networks.json").read_text()
    shutil.rmtree(source)
    moved = whole.rename(tmp_path / "moved")
    assert Chain.from_checkpoint(moved).fingerprint == fingerprint
    assert export_folder(Checkpoint.open(moved), tmp_path / "again").is_dir()
    (moved / "encoder/config.json").unlink()
    with pytest.raises(UserError, match=r"damaged: encoder/config\.json is missing"):
        Checkpoint.open(moved)


def card(folder: Path, checkpoint: Checkpoint, results: Path | None = None) -> str:
    exported = export_folder(checkpoint, folder, Contents(results=results))
    return (exported / "README.md").read_text()


def test_the_card_names_the_data_and_counts_what_is_here(tmp_path, speech_dir):
    default = Checkpoint.open(DEFAULT)
    train = default.config["data"]["train"]
    train["dir_list"] = [str(speech_dir), "/home/someone/corpora/LibriTTS_R/train-clean-100/"]
    written = card(tmp_path / "out", default)
    assert "- 7000 steps, in epoch 56 of 1520 items: at most 46.7 hours heard\n" in written
    name = "/".join(speech_dir.parts[-2:])
    assert f"- recordings: `{name}`, 7 files, 0.00 hours\n" in written
    assert "- recordings: `LibriTTS_R/train-clean-100` (not here when this was exp" in written
    assert "- noise: `train/noise` (not here" in written
    assert "- room impulse responses: `train/rooms` (not here" in written
    assert "someone" not in written
    again = card(tmp_path / "again", Checkpoint.open(tmp_path / "out"))
    assert again == written  # though where the data lay is forgotten by then
    default.config["data"] = {"train_urls": "s3://bucket/pairs/train-{000..127}.tar"}
    assert "- shards: `pairs/train-{000..127}.tar`\n" in card(tmp_path / "shards", default)


def test_the_card_has_the_results_of_one_system_or_several(tmp_path):
    value = {"mean": 1.5, "low": 1.25, "high": 1.75, "n": 9}
    results = tmp_path / "summary.json"
    default = Checkpoint.open(DEFAULT)
    one = {"pesq": value, "input_pesq": {**value, "mean": 1.3}}
    results.write_text(json.dumps(one))
    written = card(tmp_path / "one", default, results)
    assert "| metric | input | restored | files |\n| --- | --- | --- | --- |\n" in written
    assert "| pesq | 1.300 [1.250, 1.750] | 1.500 [1.250, 1.750] | 9 |\n" in written
    several = {"systems": {"a": one, "b": {"stoi": value}}, "paired": {"b": {"pesq": value}}}
    results.write_text(json.dumps(several))
    written = card(tmp_path / "several", default, results)
    assert "| metric | input | a | b | b - a | files |\n" in written
    shown = "1.500 [1.250, 1.750]"
    assert f"| pesq | 1.300 [1.250, 1.750] | {shown} | - | {shown} | 9 |\n" in written
    assert f"| stoi | - | - | {shown} | - | 9 |\n" in written
    for damaged in ("[3]", '{"systems": {}, "paired": {}}', '{"pesq": 1}'):
        results.write_text(damaged)
        with pytest.raises(UserError, match=r"is no summary\.json|has no results"):
            card(tmp_path / "other", default, results)
    assert not (tmp_path / "other").exists()


def test_a_model_that_restores_nothing_does_not_pretend_to(tmp_path):
    written = card(
        tmp_path / "classifier", Checkpoint.open(shipped("pretrained/digits_classifier"))
    )
    assert "audio-to-audio" not in written
    assert "from_pretrained" not in written
    assert "wherever it takes a checkpoint" in written
