"""Tiny random checkpoints of the real classes, and what the stock code makes of a clip."""

import functools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

SAMPLE_RATE = 16000
NUM_LAYERS = 3  # of every tiny checkpoint
USED = 2  # layers that the tests use
BLOCK = {
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
WAVEFORM = {
    **BLOCK,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    # At least 16 channels a group, as all real models have: with fewer, and a long kernel, oneDNN's
    # bf16 convolution on a CPU with AMX returns something else altogether (torch 2.11).
    "num_conv_pos_embedding_groups": 2,
}
LARGE = {**WAVEFORM, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
NAMES = {"gemma4": "usm_gemma4", "gemma3n": "usm_gemma3n"}
WAVEFORM_KINDS = {
    "wavlm_base": ("WavLM", WAVEFORM, False),
    "wavlm_large": ("WavLM", LARGE, True),
    "hubert_base": ("Hubert", WAVEFORM, True),
    "hubert_large": ("Hubert", LARGE, True),
    "hubert_batch_norm": ("Hubert", {**WAVEFORM, "conv_pos_batch_norm": True}, False),
    "xls_r": ("Wav2Vec2", LARGE, True),
}
KINDS = ["gemma4", "gemma3n", "w2v_bert", *WAVEFORM_KINDS]


def lively(model):
    """Weights wide enough that attention, masks and norms matter."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for name, buffer in model.named_buffers():
        if name.endswith(("input_min", "output_min")):
            buffer.fill_(-2.0)
        elif name.endswith(("input_max", "output_max")):
            buffer.fill_(2.5)
        elif "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


def tiny_gemma4_config():
    from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig

    return Gemma4AudioConfig(
        hidden_size=32,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        subsampling_conv_channels=[128, 4],
        output_proj_dims=16,
    )


def stock_model(kind):
    if kind == "gemma4":
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        return lively(Gemma4AudioModel(tiny_gemma4_config()))
    if kind == "gemma3n":
        from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig
        from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

        return lively(
            Gemma3nAudioEncoder(
                Gemma3nAudioConfig(
                    hidden_size=32,
                    conf_num_hidden_layers=NUM_LAYERS,
                    conf_num_attention_heads=4,
                    sscp_conv_channel_size=[8, 4],
                )
            )
        )
    import transformers

    if kind == "w2v_bert":
        config = transformers.Wav2Vec2BertConfig(**BLOCK)
        return lively(transformers.Wav2Vec2BertModel(config))
    family, fields, _ = WAVEFORM_KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**fields)
    return lively(getattr(transformers, f"{family}Model")(config))


def stock_extractor(kind):
    import transformers
    from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor

    if kind in NAMES:
        return {"gemma4": Gemma4AudioFeatureExtractor, "gemma3n": Gemma3nAudioFeatureExtractor}[
            kind
        ]()
    if kind == "w2v_bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=WAVEFORM_KINDS[kind][2])


def padded(kind, waveform):
    """The waveform with zeros until the stock extractor gives ceil(samples / hop) frames."""
    hop, beyond = (640, 0) if kind in NAMES else (320, 240 if kind == "w2v_bert" else 80)
    frames = -(-len(waveform) // hop)
    return np.pad(waveform, (0, frames * hop + beyond - len(waveform)))


@pytest.fixture(scope="session")
def stock():
    """Kind -> stock model."""
    return functools.cache(stock_model)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, stock):
    """Kind -> folder of its whole stock model, written by `save_pretrained`."""

    @functools.cache
    def get(kind):
        folder = tmp_path_factory.mktemp(kind)
        stock(kind).save_pretrained(folder)
        if kind not in NAMES:
            stock_extractor(kind).save_pretrained(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def encoder_spec(checkpoint):
    """Kind -> how to build our encoder with two of the three layers."""

    def get(kind):
        if kind in ("log_mel", "stft"):
            return {"name": kind}
        depth = "num_layers" if kind in NAMES else "layer"
        spec = {"name": NAMES.get(kind, "transformers"), "source": str(checkpoint(kind))}
        return {**spec, depth: USED}

    return get


@pytest.fixture(scope="session")
def encoder(encoder_spec):
    """Kind -> our encoder; one for all tests."""
    from open_miipher.base.registry import build
    from open_miipher.encoders import ENCODERS

    return functools.cache(lambda kind: build(ENCODERS, encoder_spec(kind)))


@pytest.fixture(scope="session")
def extractor_of():
    """Kind -> stock extractor."""
    return functools.cache(stock_extractor)


@pytest.fixture(scope="session")
def stock_input(extractor_of):
    """(kind, waveform) -> what the stock extractor gives on the waveform padded, alone."""

    def get(kind, waveform):
        extractor = extractor_of(kind)
        arguments = {} if kind in NAMES else {"sampling_rate": SAMPLE_RATE, "return_tensors": "np"}
        inputs = extractor([padded(kind, waveform)], **arguments)
        return inputs, torch.from_numpy(np.asarray(next(iter(inputs.values()))))

    return get


@pytest.fixture(scope="session")
def exact_stock_mel():
    """As `stock_input`, in double precision all the way; Gemma's extractors round their input."""

    def get(kind, waveform):
        extractor, samples = stock_extractor(kind), padded(kind, waveform.astype(np.float64))
        if kind in NAMES:
            mel, _ = extractor._extract_spectrogram(samples[None], np.ones(len(samples)))
        else:
            inputs = extractor([samples], sampling_rate=SAMPLE_RATE, return_tensors="np")
            mel = inputs["input_features"][0]
        return torch.from_numpy(mel)[None].float()

    return get


@pytest.fixture(scope="session")
def stock_features(stock_input, stock):
    """(kind, waveform) -> output of the stock model's layer `USED`, for the clip alone."""

    def get(kind, waveform):
        model = stock(kind)
        inputs, values = stock_input(kind, waveform)
        seen = []
        blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
        handle = blocks[USED - 1].register_forward_hook(lambda _m, _a, output: seen.append(output))
        with torch.no_grad():
            if kind == "gemma4":
                mask = torch.from_numpy(np.asarray(inputs["input_features_mask"]))
                output = model(values, mask)
            elif kind == "gemma3n":
                mask = torch.from_numpy(np.asarray(inputs["input_features_mask"]))
                output = model(values, ~mask)
            else:
                output = model(values, output_hidden_states=True)
        handle.remove()
        block = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        if kind not in NAMES:
            torch.testing.assert_close(output.hidden_states[USED], block, rtol=0, atol=0)
        return block[0]

    return get


@pytest.fixture(scope="session")
def speech_like():
    """samples -> float32 noise with a moving spectrum and level, pauses included."""

    def make(num_samples, seed=0):
        rng = np.random.default_rng(seed)
        time = np.arange(num_samples) / SAMPLE_RATE
        coloured = np.cumsum(rng.standard_normal(num_samples)) * 0.01
        tone = 0.3 * np.sin(2 * np.pi * (150 * time + 40 * np.sin(5 * time)))
        level = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time + 1)
        hiss = 1e-3 * rng.standard_normal(num_samples)
        return (0.5 * level * (coloured - coloured.mean() + tone) + hiss).astype(np.float32)

    return make


@pytest.fixture
def whole_gemma(checkpoint, tmp_path):
    """A multimodal checkpoint around the tiny tower: other tensors, bfloat16, several files."""

    def make(kind):
        tower = load_file(checkpoint(kind) / "model.safetensors")
        tensors = {f"model.audio_tower.{name}": t.bfloat16() for name, t in tower.items()}
        last = f".{NUM_LAYERS - 1}."
        files = {
            "model-00001.safetensors": {n: t for n, t in tensors.items() if last not in n},
            "model-00002.safetensors": {n: t for n, t in tensors.items() if last in n},
            "model-00003.safetensors": {"model.language_model.embed.weight": torch.zeros(4, 4)},
        }
        for file, content in files.items():
            save_file(content, tmp_path / file)
        index = {name: file for file, content in files.items() for name in content}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        audio = json.loads((checkpoint(kind) / "config.json").read_text())
        config = {"model_type": kind, "audio_config": audio, "text_config": {}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make
