"""What stands in for Sidon's published folder: the same layout and names, at a tiny size."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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


class Normed(nn.Module):
    """A module that keeps its weights as descript's do: by old-style weight norm."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        torch.nn.init.normal_(convolution.weight, std=0.1)
        norm = convolution.weight.detach().flatten(1).norm(dim=1)[:, None, None]
        scale = torch.rand_like(norm) + 0.5  # magnitude and direction are of different lengths
        self.weight_g, self.bias = nn.Parameter(norm), nn.Parameter(convolution.bias.detach())
        self.weight_v = nn.Parameter(convolution.weight.detach() * scale)


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, channels, 1) + 0.5)


def block(*modules: nn.Module) -> nn.Module:
    holder = nn.Module()
    holder.block = nn.Sequential(*modules)
    return holder


def decoder_state(channels: int = 32, width: int = WIDTH) -> dict[str, Tensor]:
    """A state dict with the names and shapes of descript's decoder."""
    torch.manual_seed(2)
    layers: list[nn.Module] = [Normed(nn.Conv1d(width, channels, 7))]
    for rate in RATES:
        half = channels // 2
        units = (
            block(
                Snake(half), Normed(nn.Conv1d(half, half, 7)), Snake(half),
                Normed(nn.Conv1d(half, half, 1)),
            )
            for _ in range(3)
        )  # fmt: skip
        up = Normed(nn.ConvTranspose1d(channels, half, 2 * rate))
        layers.append(block(Snake(channels), up, *units))
        channels = half
    layers += [Snake(channels), Normed(nn.Conv1d(channels, 1, 7))]
    holder = nn.Module()
    holder.model = nn.Sequential(*layers)
    return {name: tensor.detach().clone() for name, tensor in holder.state_dict().items()}


def write_published(folder: Path, base: Path, decoder: dict[str, Tensor] | None = None) -> Path:
    """Write the three published files."""
    with_adapters(base).save_pretrained(folder)
    torch.save(decoder or decoder_state(), folder / "decoder_state_dict.pt")
    return folder


def speak(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """What descript's decoder makes of (batch, width, frames), written out from the paper."""

    def weight(name: str) -> Tensor:
        direction = state[f"{name}.weight_v"]
        norm = direction.flatten(1).norm(dim=1)[:, None, None]
        return state[f"{name}.weight_g"] * direction / norm

    def convolve(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        kernel = weight(name)
        padding = (kernel.shape[-1] - 1) * dilation // 2
        bias = state[f"{name}.bias"]
        return nn.functional.conv1d(x, kernel, bias, padding=padding, dilation=dilation)

    def snake(name: str, x: Tensor) -> Tensor:
        alpha = state[f"{name}.alpha"]
        return x + torch.sin(alpha * x) ** 2 / alpha

    x = convolve("model.0", features)
    for number, rate in enumerate(RATES, start=1):
        name = f"model.{number}.block"
        up = f"{name}.1"
        x = nn.functional.conv_transpose1d(
            snake(f"{name}.0", x), weight(up), state[f"{up}.bias"], rate, -(-rate // 2)
        )
        for unit, dilation in ((2, 1), (3, 3), (4, 9)):
            inner = f"{name}.{unit}.block"
            y = convolve(f"{inner}.1", snake(f"{inner}.0", x), dilation)
            x = x + convolve(f"{inner}.3", snake(f"{inner}.2", y))
    last = len(RATES) + 1
    return torch.tanh(convolve(f"model.{last + 1}", snake(f"model.{last}", x)))
