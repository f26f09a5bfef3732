"""Encoders of random weights, and chains with them, of the papers' sizes or small ones."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

FAMILIES = {
    "miipher2": ("feature_cleaner", "wavefit_pretrain", "wavefit_finetune"),
    "sidon": ("feature_predictor", "vocoder_pretrain", "vocoder_finetune"),
}
_GENERATOR = "model.vocoder.generator"
SMALL = {
    "wavefit_pretrain": [
        f"{_GENERATOR}.down_channels=[16,16,16,16]",
        f"{_GENERATOR}.up_channels=[16,16,16,16,16]",
    ],
    "vocoder_pretrain": ["model.vocoder.channels=64"],
    "wavenext2_pretrain": [f"{_GENERATOR}.width=32", f"{_GENERATOR}.feed_forward_width=64"],
}
"""Sizes of the vocoders of a rehearsal: few CPUs compute fast in bfloat16."""


@dataclass(frozen=True)
class Chains:
    """Makes the chains of `FAMILIES`.

    Attributes:
        folder: of the encoders, some gigabytes.
        device: cuda or cpu.
        tiny: use small models, short audio and few steps, to rehearse on a CPU.
    """

    folder: Path
    device: str
    tiny: bool

    @property
    def amp(self) -> str:
        """The type to compute in; few CPUs are fast in bfloat16."""
        return "bf16" if self.device == "cuda" else "no"

    def make_encoders(self) -> str:
        """Write encoders of the papers' sizes (or small ones) as `save_pretrained` does."""
        from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel
        from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel

        small = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
        torch.manual_seed(0)
        tower = Gemma4AudioModel(Gemma4AudioConfig(**(small if self.tiny else {})))
        tower.save_pretrained(self.folder / "miipher2")
        small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        sizes = {"num_hidden_layers": 8, **(small if self.tiny else {})}  # so many are used
        bert = Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes))
        bert.save_pretrained(self.folder / "sidon")
        SeamlessM4TFeatureExtractor().save_pretrained(self.folder / "sidon")
        counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (tower, bert)]
        return " and ".join(f"{count:.1f} M parameters" for count in counts)

    def encoder(self, family: str) -> str:
        """Return the override that names a family's encoder."""
        return f"model.encoder.source={self.folder / family}"

    def parts(self, family: str, stage: str = "") -> tuple[nn.Module, nn.Module]:
        """Build a family's cleaner, with adapters that do something, and its vocoder.

        Args:
            family: its name.
            stage: in which the vocoder is trained; by default, the family's second.
        """
        from open_miipher.base.registry import build
        from open_miipher.cleaners import CLEANERS
        from open_miipher.config import compose_plain
        from open_miipher.encoders import ENCODERS
        from open_miipher.vocoders import VOCODERS

        first_stage, second_stage, _ = FAMILIES[family]
        stage, source = stage or second_stage, self.encoder(family)
        first = compose_plain([f"model={family}_{first_stage}", source])["model"]
        small = SMALL[stage] if self.tiny else []
        second = compose_plain([f"model={family}_{stage}", source, *small])["model"]
        torch.manual_seed(0)
        encoder = build(ENCODERS, first["encoder"])
        cleaner = build(CLEANERS, first["cleaner"], encoder)
        for parameter in cleaner.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1 * parameter[0].numel() ** -0.5)
        rate = encoder.sample_rate / encoder.hop_length
        vocoder = build(VOCODERS, second["vocoder"], encoder.width, rate)
        for module in vocoder.modules():  # untrained, it changes nearly nothing
            if family == "miipher2" and isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        return cleaner, vocoder


def speech_like(seconds: float, sample_rate: int) -> Tensor:
    """Make two different sounds of gliding harmonics in noise: (2, samples)."""
    t = torch.arange(round(seconds * sample_rate)) / sample_rate
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(2, len(t))
    for row, pitch in enumerate((110.0, 190.0)):
        phase = 2 * torch.pi * torch.cumsum(pitch * (1 + 0.1 * torch.sin(4 * t)), 0) / sample_rate
        voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0)
        noise[row] += 0.1 * voice * torch.sin(9 * t + row).clamp_min(0)
    return noise
