"""`src/fetch_models.py` against a stand-in hub: what it fetches, checks, says and refuses."""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_codec import make_codec

from open_miipher.base.errors import UserError
from open_miipher.commands import fetch_models
from open_miipher.encoders import ENCODERS
from open_miipher.encoders.fetching import _complete
from open_miipher.encoders.licences import LICENCES

ROOT = Path(__file__).resolve().parents[1]
LANGUAGE_BYTES = 4 * 2**20


def _hub_class():
    spec = importlib.util.spec_from_file_location("hub", Path(__file__).with_name("hub.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Hub


@functools.cache
def tower() -> tuple[dict[str, torch.Tensor], dict]:
    """A tiny audio tower's tensors and configuration."""
    from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

    torch.manual_seed(0)
    config = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        subsampling_conv_channels=[128, 4],
        output_proj_dims=16,
    )
    tensors = {n: t.bfloat16() for n, t in Gemma4AudioModel(config).state_dict().items()}
    return tensors, json.loads(config.to_json_string(use_diff=False))


def write_gemma(folder: Path, sharded: bool) -> None:
    """A multimodal checkpoint whose language part is much larger than its tower."""
    tensors, audio = tower()
    folder.mkdir()
    tower_of = {f"model.audio_tower.{name}": tensor for name, tensor in tensors.items()}
    language = {
        f"model.language_model.{name}.weight": torch.zeros(LANGUAGE_BYTES // 2, dtype=torch.int8)
        for name in ("a_first", "z_last")
    }
    config = {"model_type": "gemma4", "audio_config": audio, "text_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(b" " * 100_000)
    if not sharded:
        save_file({**tower_of, **language}, folder / "model.safetensors")
        return
    names = sorted(tower_of)
    half = len(names) // 2
    files = {
        "model-1.safetensors": {**{n: tower_of[n] for n in names[:half]}, **language},
        "model-2.safetensors": {n: tower_of[n] for n in names[half:]},
        "model-3.safetensors": {"model.language_model.more": torch.zeros(2**20)},
    }
    for file, content in files.items():
        save_file(content, folder / file)
    places = {name: file for file, content in files.items() for name in content}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_wavlm(folder: Path) -> None:
    import transformers

    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16}
    config = transformers.WavLMConfig(
        **size, **convolutions, intermediate_size=48, num_conv_pos_embedding_groups=4
    )
    transformers.WavLMModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    (folder / "tf_model.h5").write_bytes(b" " * 100_000)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    write_gemma(root / "gemma", sharded=False)
    write_gemma(root / "sharded", sharded=True)
    write_wavlm(root / "wavlm")
    shutil.copytree(root / "wavlm", root / "bin")
    weights = root / "bin/model.safetensors"
    torch.save(load_file(weights), root / "bin/pytorch_model.bin")
    weights.unlink()
    shutil.copytree(root / "gemma", root / "damaged")
    tensors = load_file(root / "damaged/model.safetensors")
    tensors["model.audio_tower.layers.2.norm_out.weight"][3] = torch.nan
    save_file(tensors, root / "damaged/model.safetensors")
    make_codec(root / "encodec")
    (root / "other").mkdir()
    (root / "other/config.json").write_text('{"model_type": "llama"}')
    return {f"someone/{path.name}": path for path in root.iterdir()}


@pytest.fixture
def hub(repositories: dict[str, Path]) -> Iterator:
    hub = _hub_class()(repositories)
    yield hub
    hub.close()


@pytest.fixture
def fetch(hub, run_script, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run the command as a user does; the hub and the cache are this test's."""

    def fetch(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment = {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
        environment |= variables
        return run_script("src/fetch_models.py", *arguments, environment=environment, check=False)

    return fetch


def tower_bytes() -> int:
    return sum(tensor.numel() * 2 for tensor in tower()[0].values())


def test_names_are_the_encoders_with_a_hub_source() -> None:
    specs = fetch_models.specs()
    assert {"usm_gemma4", "usm_gemma3n", "w2v_bert_2", "wavlm_large"} <= set(specs)
    assert "log_mel" not in specs
    for spec in specs.values():
        assert {"name", "source", fetch_models._DEPTH_KEYS[spec["name"]]} <= set(spec)
        assert spec["name"] in ENCODERS


def test_licences_are_those_that_the_page_and_the_configuration_name() -> None:
    page = (ROOT / "docs/encoders.md").read_text()
    for name, spec in fetch_models.specs().items():
        licence = LICENCES[spec["source"]]
        row = next(r for r in page.splitlines() if r.startswith("|") and f"`{name}`" in r)
        assert row.rpartition(" | ")[2].startswith(licence)
        comment = (ROOT / f"config/encoder/{name}.yaml").read_text().partition("name:")[0]
        assert licence.replace("terms", "licence") in comment


def test_a_disk_without_room_is_one_sentence(tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    model = fetch_models.Model("a/b", "main", {"model.safetensors": 5_000_000}, None)
    with pytest.raises(UserError, match=r"0 MB free and 5 MB are to come for a/b; make room"):
        fetch_models.check_room(model, ["model.safetensors"])
    with pytest.raises(UserError, match=r"0 MB free and 7 MB are to come; make room"):
        _complete(tmp_path / "model.safetensors", b"header", [("url", 0, 7_000_000)], print)
    with (
        pytest.raises(UserError, match=r"the disk of .* is full; make room"),
        fetch_models.hub_errors("x"),
    ):
        raise OSError(28, "No space left on device")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["sharded", pytest.param("gemma", marks=pytest.mark.slow)])
def test_only_the_tower_of_a_gemma_is_fetched_and_loads_offline(kind, fetch, hub, tmp_path) -> None:
    hub.gated.add(f"someone/{kind}")
    result = fetch(f"someone/{kind}", HF_TOKEN="hf_secret")
    assert result.returncode == 0, result.stderr
    assert "hf_secret" not in result.stdout + result.stderr
    assert "licence: cc0-1.0" in result.stdout
    assert "3 layers load offline, 32 wide, 25 Hz, all finite; fingerprint" in result.stdout
    assert f"export HF_HOME={tmp_path / 'cache'} HF_HUB_OFFLINE=1" in result.stdout
    folder = tmp_path / f"cache/open-miipher-2/someone--{kind}"
    assert f"model.encoder.source={folder}" in result.stdout
    fetched = load_file(folder / "model.safetensors")
    expected = {f"model.audio_tower.{name}": t for name, t in tower()[0].items()}
    assert set(fetched) == set(expected)
    assert all(torch.equal(fetched[name], tensor) for name, tensor in expected.items())
    weights = sum(n for file, n in hub.served.items() if file.endswith(".safetensors"))
    headers = 64 * 2 * len(expected) * 4
    assert tower_bytes() <= weights < tower_bytes() + headers < LANGUAGE_BYTES
    assert hub.served["model-3.safetensors"] == hub.served["tokenizer.json"] == 0


@pytest.mark.slow
@pytest.mark.integration
def test_a_broken_connection_and_a_broken_fetch_are_gone_on_with(fetch, hub, tmp_path) -> None:
    total = tower_bytes()
    folder = tmp_path / "cache/open-miipher-2/someone--gemma"
    hub.cut_after = [total // 2, total // 4]  # broken twice, mended in one go
    result = fetch("someone/gemma")
    assert result.returncode == 0, result.stderr
    assert hub.served["model.safetensors"] < total + 200_000
    whole = (folder / "model.safetensors").read_bytes()
    partial = folder / "model.safetensors.partial"
    partial.write_bytes(whole[: len(whole) * 3 // 4])  # as a kill leaves it
    (folder / "model.safetensors").unlink()
    hub.served.clear()
    assert fetch("someone/gemma").returncode == 0
    assert (folder / "model.safetensors").read_bytes() == whole
    assert hub.served["model.safetensors"] < total // 4 + 200_000
    assert not partial.exists()
    hub.served.clear()
    assert fetch("someone/gemma").returncode == 0  # nothing but the header is asked for
    assert hub.served["model.safetensors"] < 200_000


@pytest.mark.slow
@pytest.mark.integration
def test_a_hub_that_knows_no_ranges_sends_the_files_that_hold_the_tower(fetch, hub) -> None:
    hub.takes_ranges = False
    result = fetch("someone/sharded")
    assert result.returncode == 0, result.stderr
    assert "whole files only" in result.stdout
    assert "3 layers load offline" in result.stdout
    assert hub.served["model-3.safetensors"] == 0


@pytest.mark.slow
@pytest.mark.integration
def test_other_models_are_fetched_whole_and_nothing_beside(fetch, hub, tmp_path) -> None:
    result = fetch("someone/wavlm", "someone/bin", "--dir", tmp_path / "a folder")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("3 layers load offline, 32 wide, 50 Hz") == 2
    assert f"export HF_HOME='{tmp_path / 'a folder'}' HF_HUB_OFFLINE=1" in result.stdout
    assert "model.encoder.source" not in result.stdout
    assert hub.served["tf_model.h5"] == 0
    assert not (tmp_path / "cache").exists()
    assert len(re.findall(r"fingerprint [0-9a-f]{16}", result.stdout)) == 2


@pytest.mark.integration
def test_a_codec_is_fetched_and_tokenises_offline(fetch, hub, tmp_path) -> None:
    result = fetch("someone/encodec")
    assert result.returncode == 0, result.stderr
    assert "75 frames a second of 2 tokens at 1.5 kb/s; fingerprint" in result.stdout
    assert f"export HF_HOME={tmp_path / 'cache'} HF_HUB_OFFLINE=1" in result.stdout


@pytest.mark.integration
@pytest.mark.slow
def test_what_cannot_be_had_is_one_sentence_each(fetch, hub, tmp_path) -> None:
    hub.gated.add("someone/gemma")
    wanted = ["nobody/nothing", "someone/gemma", "someone/other", "not an id", "usm_gemma4"]
    result = fetch(*wanted, "someone/damaged")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("  - ")]
    expected = ["no model at", "is gated", "type llama", "neither a hub id", "no model at"]
    expected += ["holds NaN or Inf in model.audio_tower.layers.2.norm_out.weight"]
    assert len(lines) == 6
    for line, said in zip(lines, expected, strict=True):
        assert said in line, line
    hub.close()
    for variables, said in (({}, "is there a network"), ({"HF_HUB_OFFLINE": "1"}, "unset it")):
        result = fetch("someone/wavlm", HF_TOKEN="hf_secret", **variables)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert "Traceback" not in result.stderr
        assert "hf_secret" not in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_a_token_in_a_file_opens_a_gated_model(fetch, hub, tmp_path) -> None:
    hub.gated.add("someone/wavlm")
    (tmp_path / "token").write_text("hf_secret\n")
    result = fetch("someone/wavlm", HF_TOKEN_PATH=str(tmp_path / "token"))
    assert result.returncode == 0, result.stderr
    assert "hf_secret" not in result.stdout + result.stderr


def test_every_name_has_a_depth_key_and_the_configuration_says_it() -> None:
    for path in sorted((ROOT / "config/encoder").glob("*.yaml")):
        spec = yaml.safe_load(path.read_text())
        if "source" in spec:
            assert spec[fetch_models._DEPTH_KEYS[spec["name"]]] >= 1
