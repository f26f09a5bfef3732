"""What holds for every cleaner on every encoder."""

import copy

import pytest
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS

ADAPTERS = {"name": "parallel_adapters", "bottleneck": 24}
CONFORMER = {"name": "conformer", "width": 16, "feed_forward_width": 24}
BANDS = {"name": "band_convolution", "width": 8, "bands": [[4, 8], [8, 4]], "dilations": [1, 2]}
LORA = {"name": "lora", "rank": 4, "dropout": 0.0}
PAIRS = [
    ("gemma4", ADAPTERS),
    ("gemma3n", ADAPTERS),
    ("w2v_bert", ADAPTERS),
    ("wavlm", ADAPTERS),
    ("gemma4", {**ADAPTERS, "tap": "output", "norm": "layer", "activation": "gelu"}),
    ("wavlm", {**ADAPTERS, "tap": "output", "norm": "none", "activation": "silu"}),
    ("w2v_bert", LORA),
    ("wavlm", {**LORA, "bias": False}),
    ("log_mel", CONFORMER),
    ("stft", BANDS),
    ("w2v_bert", {**CONFORMER, "feature_mean": 0.0, "feature_scale": 1.0}),
]


def trained(cleaner):
    """Move the weights away from the identity."""
    generator = torch.Generator().manual_seed(1)
    for parameter in cleaner.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise
    return cleaner


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{'-'.join(map(str, pair[1].values()))}")
def cleaner(request, encoder):
    kind, spec = request.param
    return build(CLEANERS, spec, encoder(kind))


def test_teacher_is_the_base_model_bit_for_bit(cleaner, batch, encoder, request):
    kind = request.node.callspec.params["cleaner"][0]
    features, lengths = encoder(kind)(*batch)
    cleaned, _ = trained(cleaner)(*batch)
    taught, taught_lengths = cleaner.teacher(*batch)
    assert torch.equal(taught, features)
    assert torch.equal(taught_lengths, lengths)
    assert not taught.requires_grad
    assert (cleaned - features).abs().max() > 1e-3


def test_identity_at_step_0(cleaner, batch):
    taught, taught_lengths = cleaner.teacher(*batch)
    with torch.no_grad():
        cleaned, lengths = cleaner(*batch)
    assert torch.equal(cleaned, taught)
    assert torch.equal(lengths, taught_lengths)
    # With gradients torch may choose another attention kernel, which rounds differently.
    torch.testing.assert_close(cleaner(*batch)[0], taught, atol=1e-5, rtol=0)


def test_identity_at_step_0_under_autocast(cleaner, batch):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cleaner(*batch)[0], cleaner.teacher(*batch)[0])


def test_every_trainable_parameter_gets_a_gradient_each_step(cleaner, batch):
    optimizer = torch.optim.SGD([p for p in cleaner.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        cleaned, _ = cleaner(*batch)
        (cleaned - 1).square().mean().backward()
        for name, parameter in cleaner.named_parameters():
            assert (parameter.grad is None) == name.startswith("encoder."), name
        optimizer.step()
    moving = [p for p in cleaner.parameters() if p.requires_grad and p.grad.abs().max() > 0]
    assert len(moving) == sum(p.requires_grad for p in cleaner.parameters())


def test_one_step_brings_the_features_nearer(cleaner, batch):
    target = trained(copy.deepcopy(cleaner))(*batch)[0].detach()  # what it can reach
    optimizer = torch.optim.Adam([p for p in cleaner.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = (cleaner(*batch)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_padding_a_batch_changes_nothing(cleaner, batch):
    waveform, lengths = batch
    together, frame_lengths = trained(cleaner)(nn.functional.pad(waveform, (0, 3000)), lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = cleaner(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert alone.shape[1] == frame_lengths[row]
        scale = max(1.0, alone.abs().max().item())
        valid = together[row, : alone.shape[1]]
        torch.testing.assert_close(valid, alone[0], atol=2e-5 * scale, rtol=0)


def test_weights_go_into_a_fresh_cleaner_without_the_encoder(cleaner, batch, encoder, request):
    kind, spec = request.node.callspec.params["cleaner"]
    state = trained(cleaner).trained_state_dict()
    assert set(state) == {n for n, p in cleaner.named_parameters() if p.requires_grad}
    fresh = build(CLEANERS, spec, encoder(kind))
    fresh.load_trained_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert torch.equal(fresh(*batch)[0], cleaner(*batch)[0])


def test_weights_that_do_not_fit_are_all_named(cleaner):
    state = cleaner.trained_state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    first, second = sorted(state)[:2]
    wrong = {name: tensor + 1 for name, tensor in state.items() if name != first}
    wrong |= {second: torch.zeros(3, 3, 3), "stranger": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        cleaner.load_trained_state_dict(wrong)
    assert f"lack {first}" in str(caught.value)
    assert "no stranger" in str(caught.value)
    assert f"{second} has shape (3, 3, 3)" in str(caught.value)
    assert all(torch.equal(t, before[n]) for n, t in cleaner.trained_state_dict().items())


def test_copies_are_independent(cleaner, batch):
    expected = trained(cleaner)(*batch)[0]
    twin = copy.deepcopy(cleaner)
    for parameter in cleaner.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(*batch)[0], expected)


def test_merging_changes_nothing_but_speed(cleaner, batch):
    cleaner.eval()
    expected = trained(cleaner)(*batch)[0]
    state = {name: tensor.clone() for name, tensor in cleaner.trained_state_dict().items()}
    for _ in range(2):  # the second time there is nothing left to merge
        cleaner.merge()
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(cleaner(*batch)[0], expected, atol=1e-5 * scale, rtol=0)
    after = cleaner.trained_state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def test_training_mode_leaves_the_encoder_alone(cleaner):
    cleaner.train()
    assert cleaner.training
    assert not any(module.training for module in cleaner.encoder.modules())
