"""What is read of a checkpoint, what is refused, and the fingerprint."""

import json
import shutil
import socket
import time

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.encoders import ENCODERS


def gemma(kind, source, num_layers=2):
    return build(ENCODERS, {"name": f"usm_{kind}", "source": str(source), "num_layers": num_layers})


def speech_model(source, layer=2):
    return build(ENCODERS, {"name": "transformers", "source": str(source), "layer": layer})


@pytest.mark.parametrize("kind", ["gemma4", "gemma3n"])
def test_whole_checkpoint_needs_only_the_files_of_used_layers(kind, whole_gemma, encoder):
    folder = whole_gemma(kind)
    (folder / "model-00002.safetensors").unlink()
    (folder / "model-00003.safetensors").unlink()
    loaded = gemma(kind, folder)
    assert len(loaded.layers) == 2
    for name, tensor in encoder(kind).state_dict().items():
        read = loaded.state_dict()[name]
        assert read.dtype == torch.float32
        torch.testing.assert_close(read, tensor.bfloat16().float(), rtol=0, atol=0)
    with pytest.raises(UserError, match="model-00002"):
        gemma(kind, folder, num_layers=3)


@pytest.mark.slow
def test_gemma4_out_of_a_real_multimodal_checkpoint(tmp_path, speech_like):
    from transformers.models.gemma4.configuration_gemma4 import (
        Gemma4AudioConfig,
        Gemma4Config,
        Gemma4TextConfig,
        Gemma4VisionConfig,
    )
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "head_dim": 8}
    text = Gemma4TextConfig(
        **sizes,
        num_hidden_layers=2,
        num_key_value_heads=1,
        vocab_size=300,
        vocab_size_per_layer_input=300,
        hidden_size_per_layer_input=4,
    )
    vision = Gemma4VisionConfig(**sizes, num_hidden_layers=1, num_key_value_heads=2)
    audio = Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        subsampling_conv_channels=[128, 4],
        output_proj_dims=16,
    )
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=audio)
    whole = Gemma4ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    loaded = gemma("gemma4", tmp_path)
    tower = whole.model.audio_tower
    for name, tensor in loaded.tower.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name])


def test_clip_bounds_come_with_the_checkpoint(encoder):
    linear = encoder("gemma4").layers[0].feed_forward1.ffw_layer_1
    assert (linear.input_min.item(), linear.output_max.item()) == (-2.0, 2.5)


def test_fingerprint_is_of_the_used_weights(checkpoint, tmp_path, encoder, whole_gemma):
    same = gemma("gemma4", checkpoint("gemma4"))
    assert same.fingerprint() == encoder("gemma4").fingerprint()
    assert gemma("gemma4", checkpoint("gemma4"), 1).fingerprint() != same.fingerprint()
    # bfloat16 weights are other weights.
    assert gemma("gemma4", whole_gemma("gemma4")).fingerprint() != same.fingerprint()
    # Equal under another numeric type on the way through: it was taken when they were loaded.
    assert same.half().fingerprint() == encoder("gemma4").fingerprint()


def test_log_mel_fingerprint_is_of_its_settings():
    prints = {build(ENCODERS, {"name": "log_mel", "n_mels": n}).fingerprint() for n in (80, 80, 64)}
    assert len(prints) == 2


@pytest.mark.parametrize("kind", ["gemma4", "gemma3n"])
def test_too_many_or_no_layers(kind, checkpoint):
    for num_layers in (0, 4):
        with pytest.raises(UserError, match="between 1 and 3"):
            gemma(kind, checkpoint(kind), num_layers)


def test_speech_model_with_too_many_or_no_layers(checkpoint):
    for layer in (0, 4):
        with pytest.raises(UserError, match="between 1 and 3"):
            speech_model(checkpoint("hubert_base"), layer)


def test_last_layer_is_raw_like_hidden_states(checkpoint, stock, stock_input, speech_like):
    waveform = speech_like(6400)
    _, values = stock_input("hubert_large", waveform)
    with torch.no_grad():
        states = stock("hubert_large")(values, output_hidden_states=True).hidden_states
    loaded = speech_model(checkpoint("hubert_large"), 3)
    features, _ = loaded(torch.from_numpy(waveform)[None], torch.tensor([6400]))
    torch.testing.assert_close(features, states[3], atol=1e-4, rtol=1e-4)


def test_other_families_are_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="gemma4_audio is needed"):
        gemma("gemma4", checkpoint("gemma3n"))
    with pytest.raises(UserError, match="wav2vec2-bert, hubert, wav2vec2, wavlm are supported"):
        speech_model(checkpoint("gemma4"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(UserError, match="unheard_of"):
        speech_model(tmp_path)


def test_missing_tensor_is_named(checkpoint, tmp_path):
    for kind, victim in (("gemma4", "layers.1.norm_out.weight"), ("xls_r", "layers.1.layer_norm")):
        folder = tmp_path / kind
        shutil.copytree(checkpoint(kind), folder)
        tensors = load_file(folder / "model.safetensors")
        kept = {n: t for n, t in tensors.items() if victim not in n}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=victim):
            gemma(kind, folder) if kind == "gemma4" else speech_model(folder)


def test_wrong_shape_is_named(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint("gemma4"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.0.norm_out.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"layers.0.norm_out.weight has shape \(7,\)"):
        gemma("gemma4", folder)


@pytest.mark.parametrize("kind", ["gemma4", "wavlm_large"])
def test_truncated_file(kind, checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint(kind), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="copy"):
        gemma(kind, folder) if kind == "gemma4" else speech_model(folder)


def test_missing_settings_of_a_waveform_model(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint("wavlm_base"), folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        speech_model(folder)


@pytest.mark.parametrize("name", ["usm_gemma4", "usm_gemma3n", "transformers"])
@pytest.mark.parametrize("source", ["nobody/nothing", "/no/such/folder", "..//x y"])
def test_source_that_cannot_be_had_says_how_to_fetch_it(name, source, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"no folder here.*hf download.*HF_HOME.*HF_TOKEN"):
        build(ENCODERS, {"name": name, "source": source})


def test_where_there_is_no_network_the_answer_comes_at_once(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free, and nobody listens after this
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits {seconds} s"))
    with pytest.raises(UserError, match=r"no folder here.*hf download.*HF_HOME.*HF_TOKEN"):
        build(ENCODERS, {"name": "transformers", "source": "nobody/nothing"})


def test_hub_files_are_fetched_one_by_one(whole_gemma, monkeypatch):
    """The hub is asked for the settings, the index and the one file with the used layers."""
    folder = whole_gemma("gemma4")
    asked = []

    def download(repository, name, **_):
        asked.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    gemma("gemma4", "someone/gemma")
    assert {repository for repository, _ in asked} == {"someone/gemma"}
    assert {name for _, name in asked} == {
        "config.json",
        "model.safetensors.index.json",
        "model-00001.safetensors",
    }


def test_loading_prints_nothing(checkpoint, capfd):
    """Neither progress bars, which spoil logs, nor the layers that are left out on purpose."""
    folder = checkpoint("wavlm_base")
    capfd.readouterr()
    speech_model(folder)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
