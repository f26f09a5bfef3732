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
        rank: rank of the matrices A and B.
        alpha: the adapters' outputs are multiplied by alpha / rank.
        dropout: probability of the dropout on an adapter's input.
        target: in every used layer, the linear layers of this name get an adapter.
        bias: also train the biases of those linear layers (peft's `lora_only`).
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.1
    target: str = "output_dense"
    bias: bool = True


# peft's path to the layers in the whole model, of which our encoder is a part.
_PREFIX = "base_model.model.encoder.layers"


class LowRank(nn.Module):
    """The change that the adapter of one linear layer adds to the layer's output.

    Args:
        linear: the linear layer.
        config: shape of the adapter.
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
        """(…, width in) and the linear layer's own bias -> (…, width out)."""
        change = self.scale * self.lora_B(self.lora_A(self.dropout(x)))
        return change + (self.base_layer["bias"] - bias) if self.base_layer else change

    def merge_into(self, linear: nn.Linear) -> None:
        """Add this change to the weights of the linear layer."""
        linear.weight += self.scale * self.lora_B.weight @ self.lora_A.weight
        if self.base_layer:
            linear.bias.copy_(self.base_layer["bias"])


class Lora(HookedCleaner):
    """W x + b becomes W x + (alpha / rank) B A x + b' (Hu et al., arXiv 2106.09685, section 4.1).

    B starts at zero and b' at b, so step 0 is the identity. Before `merge`, the encoder's own
    weights do not change. The trained weights have the names that peft's `save_pretrained` gives
    them.
    """

    Config = LoraConfig

    def __init__(self, encoder: Encoder, config: LoraConfig) -> None:
        """Attach adapters to an encoder.

        Args:
            encoder: its layers contain linear layers named `config.target`.
            config: shape of the adapters.

        Raises:
            UserError: there is no such linear layer, or a number is out of its range.
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

    def teacher(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode without cleaning; see `Cleaner.teacher`.

        Raises:
            RuntimeError: after `merge`, because the base model does not exist any more.
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
        """Forward hook of an adapted linear layer: add the adapter's output to the layer's."""
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
