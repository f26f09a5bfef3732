"""What stands in for Sidon's published folder: the same layout and names, at a tiny size."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn

RATES = [8, 5, 4, 3, 2]
WIDTH = 32


def write_base(folder: Path) -> Path:
    """A w2v-BERT of four layers and random weights, with its extractor."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48
    )
    model = Wav2Vec2BertModel(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder


def with_adapters(base: Path, seed: int = 1) -> Any:
    """Two layers of it with peft's LoRA, as Sidon's predictor has it, with random weights."""
    import peft
    from transformers import Wav2Vec2BertModel

    model = Wav2Vec2BertModel.from_pretrained(base, num_hidden_layers=2)
    config = peft.LoraConfig(
        r=4, lora_alpha=2, lora_dropout=0.1, bias="lora_only", target_modules=["output_dense"]
    )
    model = peft.get_peft_model(model, config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def descripts_decoder(channels: int = 32, width: int = WIDTH) -> nn.Module:
    """descript's own decoder, with random weights.

    To import it is to import its whole package, and that asks for descript-audiotools, whose pins
    are older than ours. The decoder uses nothing of it, so empty names stand in.
    """
    tools, tools_ml, command_lines = map(ModuleType, ("audiotools", "audiotools.ml", "dac.utils"))
    tools_ml.BaseModel = type("BaseModel", (nn.Module,), {"INTERN": [], "EXTERN": []})
    tools.ml, tools.AudioSignal, tools.STFTParams = tools_ml, object, object
    stand_ins = {module.__name__: module for module in (tools, tools_ml, command_lines)}
    with mock.patch.dict(sys.modules, stand_ins):
        from dac.model.dac import Decoder
    torch.manual_seed(2)
    decoder = Decoder(width, channels, RATES).eval()
    for name, parameter in decoder.named_parameters():
        if not name.endswith("weight_g"):  # else the magnitudes of the directions
            nn.init.normal_(parameter, std=0.2)
    return decoder


def write_published(folder: Path, base: Path, decoder: nn.Module) -> Path:
    """Write the three published files."""
    with_adapters(base).save_pretrained(folder)
    torch.save(decoder.state_dict(), folder / "decoder_state_dict.pt")
    return folder
