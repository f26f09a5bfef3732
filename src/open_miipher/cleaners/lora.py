"""Low-rank adapters in the feed-forward modules of a frozen speech encoder: Sidon's predictor."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.cleaners.base import HookedCleaner
from open_miipher.encoders import Encoder


@dataclass
class LoraConfig:
    """The adapters' shape; the defaults are Sidon's (arXiv 2509.17052, section 2.1).

    Attributes:
        rank: of the matrices.
        alpha: the adapters' outputs are multiplied by alpha / rank.
        dropout: probability, of an adapter's input.
        target: the linear maps of this name get an adapter, in every used layer.
        bias: train the biases of those maps as well (peft's `lora_only`).
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.1
    target: str = "output_dense"
    bias: bool = True


# Where peft finds the layers of the whole model that our encoder is a part of.
_PREFIX = "base_model.model.encoder.layers"


class LowRank(nn.Module):
    """What one linear map's output changes by.

    Args:
        linear: the map.
        config: rank and the like.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        self.lora_A = nn.Linear(linear.in_features, config.rank, bias=False)
        self.lora_B = nn.Linear(config.rank, linear.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.base_layer = nn.ParameterDict()
        if config.bias and linear.bias is not None:
            self.base_layer["bias"] = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(…, width in) and the map's own bias -> (…, width out)."""
        change = self.scale * self.lora_B(self.lora_A(self.dropout(x)))
        return change + (self.base_layer["bias"] - bias) if self.base_layer else change

    def merge_into(self, linear: nn.Linear) -> None:
        """Let the map do what it and this do together."""
        linear.weight += self.scale * self.lora_B.weight @ self.lora_A.weight
        if self.base_layer:
            linear.bias.copy_(self.base_layer["bias"])


class Lora(HookedCleaner):
    """W x + b becomes W x + (alpha / rank) B A x + b' (Hu et al., arXiv 2106.09685, section 4.1).

    B starts at zero and b' at b: step 0 is the identity. The encoder itself is never changed, until
    `merge`. The names of the trained weights are those that peft's `save_pretrained` gives them on
    the encoder.
    """

    Config = LoraConfig

    def __init__(self, encoder: Encoder, config: LoraConfig) -> None:
        """Attach adapters to an encoder.

        Args:
            encoder: with linear maps of the target's name in its layers.
            config: their shape.

        Raises:
            UserError: there are none, or a number is out of its range.
        """
        super().__init__(encoder)
        if config.rank < 1:
            raise UserError(f"model.cleaner.rank={config.rank} must be at least 1")
        self.merged = False
        for number, layer in enumerate(encoder.layers):
            for path, module in layer.named_modules():
                if path.rpartition(".")[2] == config.target and isinstance(module, nn.Linear):
                    adapter = LowRank(module, config)
                    _put(self, f"{_PREFIX}.{number}.{path}", adapter)
                    module.register_forward_hook(functools.partial(self._adapt, adapter))
        if not any(isinstance(module, LowRank) for module in self.modules()):
            raise UserError(
                f"model.cleaner.target={config.target} names no linear map in the encoder's "
                "layers; w2v-BERT, WavLM and HuBERT have output_dense"
            )

    def teacher(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode without cleaning; see `Cleaner.teacher`.

        Raises:
            RuntimeError: after `merge` there is no base model any more.
        """
        if self.merged:
            raise RuntimeError("a merged cleaner has no teacher")
        return super().teacher(waveform, lengths)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapters to the encoder's weights; see `Cleaner.merge`."""
        if self.merged:
            return
        for number, layer in enumerate(self.encoder.layers):
            for path, adapter in self.get_submodule(f"{_PREFIX}.{number}").named_modules():
                if isinstance(adapter, LowRank):
                    adapter.merge_into(layer.get_submodule(path))
        self.merged = True

    def _adapt(
        self, adapter: "LowRank", module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        """Forward hook of an adapted map: add what its adapter makes of its input."""
        if self.merged or not self.is_acting:
            return None
        return output + adapter(args[0], module.bias).to(output.dtype)


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register a module under a dotted name, with plain modules in between."""
    *names, last = path.split(".")
    for name in names:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, module)
