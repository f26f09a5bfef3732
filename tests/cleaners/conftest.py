"""Tiny frozen encoders of the real classes, one for each way in which layers are called."""

import functools

import pytest
import torch
from torch import nn

from open_miipher.base.registry import build
from open_miipher.encoders import ENCODERS


def stock_model(kind):
    block = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind == "gemma4":
        from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        return Gemma4AudioModel(
            Gemma4AudioConfig(**block, subsampling_conv_channels=[128, 4], output_proj_dims=16)
        )
    if kind == "gemma3n":
        from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig
        from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

        return Gemma3nAudioEncoder(
            Gemma3nAudioConfig(
                hidden_size=32,
                conf_num_hidden_layers=3,
                conf_num_attention_heads=4,
                sscp_conv_channel_size=[8, 4],
            )
        )
    import transformers

    if kind == "w2v_bert":
        config = transformers.Wav2Vec2BertConfig(**block, intermediate_size=48)
        return transformers.Wav2Vec2BertModel(config)
    config = transformers.WavLMConfig(
        **block,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return transformers.WavLMModel(config)


@pytest.fixture(scope="session")
def encoder_spec(tmp_path_factory):
    """Kind -> fields that build its encoder with two of three layers."""

    @functools.cache
    def get(kind):
        if kind == "log_mel":
            return {"name": "log_mel"}
        if kind == "stft":
            return {"name": "stft", "n_fft": 128, "hop_length": 64}
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(kind)
        model = stock_model(kind)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        model.save_pretrained(folder)
        if kind.startswith("gemma"):
            return {"name": f"usm_{kind}", "source": str(folder), "num_layers": 2}
        from transformers import Wav2Vec2FeatureExtractor

        Wav2Vec2FeatureExtractor().save_pretrained(folder)
        return {"name": "transformers", "source": str(folder), "layer": 2}

    return get


@pytest.fixture
def encoder(encoder_spec):
    """Kind -> a new encoder (cleaners attach themselves to it)."""
    return lambda kind: build(ENCODERS, encoder_spec(kind))


@pytest.fixture
def batch():
    """Waveforms (3, 6400) with lengths 6400, 3201 and 1."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([6400, 3201, 1])
    waveform = 0.1 * torch.randn(3, 6400, generator=generator)
    return waveform * (torch.arange(6400) < lengths[:, None]), lengths
