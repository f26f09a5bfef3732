"""How adapters are attached to a frozen encoder."""

import threading

import pytest
import torch
from torch import Tensor, nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import Encoder


class Doubling(nn.Module):
    """A layer called with a keyword, that answers with a tuple."""

    def forward(self, hidden_states: Tensor, extra: int = 0) -> tuple[Tensor, int]:
        return 2 * hidden_states, extra + 1


class TwoLayers(Encoder):
    sample_rate, hop_length, width = 8, 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Doubling(), Doubling()])
        self.barrier: threading.Barrier | None = None
        self.freeze()

    @property
    def layers(self) -> nn.ModuleList:
        return self.blocks

    def encode(self, waveform: Tensor, frame_lengths: Tensor) -> Tensor:
        hidden, extra = waveform[:, :, None], 0
        for layer in self.blocks:
            if self.barrier is not None:
                self.barrier.wait(timeout=5)
            hidden, extra = layer(hidden_states=hidden, extra=extra)
        assert extra == 2
        return hidden


def cleaner_on(encoder, **fields):
    return build(CLEANERS, {"name": "parallel_adapters", "bottleneck": 4, **fields}, encoder)


def adding_ten_times_the_tapped(tap):
    """Adapters that compute exactly 10 · x."""
    cleaner = cleaner_on(TwoLayers(), tap=tap, norm="none")
    for adapter in cleaner.adapters:
        down, _, up = adapter
        down.weight.data.copy_(torch.tensor([[1.0], [0], [0], [0]]))
        up.weight.data.copy_(torch.tensor([[10.0, 0, 0, 0]]))
        down.bias.data.zero_()
    return cleaner


@pytest.mark.parametrize(("tap", "factor"), [("input", 2 + 10), ("output", 2 + 2 * 10)])
def test_layer_output_plus_adapter_output_is_the_next_input(tap, factor):
    cleaner = adding_ten_times_the_tapped(tap)
    features, _ = cleaner(torch.ones(1, 3), torch.tensor([3]))
    assert features.flatten().tolist() == [factor**2] * 3


def test_paper_size():
    """1536 wide, 13 layers, bottleneck 1024: 40.9 M weights, as 1536 · 1024 · 2 · 13 says."""
    encoder = TwoLayers()
    encoder.width, encoder.blocks = 1536, nn.ModuleList(Doubling() for _ in range(13))
    cleaner = build(CLEANERS, {"name": "parallel_adapters"}, encoder)
    matrices = sum(p.numel() for p in cleaner.parameters() if p.ndim == 2)
    assert matrices == 1536 * 1024 * 2 * 13


def test_shared_norm_is_one_and_a_norm_a_layer_is_many():
    norms = {
        norm: sum(isinstance(m, nn.LayerNorm) for m in cleaner_on(TwoLayers(), norm=norm).modules())
        for norm in ("shared", "layer", "none")
    }
    assert norms == {"shared": 1, "layer": 2, "none": 0}


def test_random_init_is_not_the_identity(batch, encoder):
    cleaner = cleaner_on(encoder("gemma4"), init="random")
    assert (cleaner(*batch)[0] - cleaner.teacher(*batch)[0]).abs().max() > 1e-3


def test_adapters_are_off_again_after_an_error():
    cleaner = adding_ten_times_the_tapped("input")
    with pytest.raises(AttributeError):
        cleaner(None, torch.tensor([3]))
    features, _ = cleaner.teacher(torch.ones(1, 3), torch.tensor([3]))
    assert features.flatten().tolist() == [4.0] * 3


def test_a_teacher_and_a_student_in_two_threads_do_not_mix():
    cleaner = adding_ten_times_the_tapped("input")
    cleaner.encoder.barrier = threading.Barrier(2)  # both are between the layers at once
    results = {}

    def run(name, function):
        with torch.no_grad():
            results[name] = function(torch.ones(1, 1), torch.tensor([1]))[0].item()

    threads = [
        threading.Thread(target=run, args=("student", cleaner)),
        threading.Thread(target=run, args=("teacher", cleaner.teacher)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"student": 144.0, "teacher": 4.0}


def test_two_cleaners_on_one_encoder_do_not_mix():
    first = adding_ten_times_the_tapped("input")
    second = cleaner_on(first.encoder)
    waveform, lengths = torch.ones(1, 1), torch.tensor([1])
    assert first(waveform, lengths)[0].item() == 144.0
    assert second(waveform, lengths)[0].item() == 4.0


@pytest.mark.parametrize("kind", ["gemma4", "gemma3n", "w2v_bert", "wavlm"])
def test_gradient_checkpointing_changes_no_bit(kind, encoder, batch):
    gradients = []
    for gradient_checkpointing in (False, True):
        base = encoder(kind)  # the first of its kind draws weights
        torch.manual_seed(0)
        cleaner = cleaner_on(base, init="random", gradient_checkpointing=gradient_checkpointing)
        cleaned, _ = cleaner(*batch)
        cleaned.square().mean().backward()
        gradients.append([p.grad for p in cleaner.parameters() if p.requires_grad])
        assert torch.equal(cleaner.teacher(*batch)[0], encoder(kind)(*batch)[0])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_gradient_checkpointing_keeps_fewer_activations(encoder, batch):
    kept = []
    for gradient_checkpointing in (False, True):
        cleaner = cleaner_on(encoder("gemma4"), gradient_checkpointing=gradient_checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            cleaner(*batch)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_an_encoder_without_layers_is_refused(encoder):
    with pytest.raises(UserError, match="use conformer for log_mel"):
        cleaner_on(encoder("log_mel"))
