"""Fused attention with relative keys equals the stock module, in output and gradient."""

import copy

import pytest
import torch

from open_miipher.encoders.relative_key import RelativeKeyAttention


@pytest.fixture(scope="module")
def attention():
    from transformers import Wav2Vec2BertConfig
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=32,
        num_attention_heads=4,
        left_max_position_embeddings=7,
        right_max_position_embeddings=3,
        attention_dropout=0.0,
        attn_implementation="eager",
    )
    stock = Wav2Vec2BertSelfAttention(config).eval()
    torch.nn.init.normal_(stock.distance_embedding.weight)
    return stock


def masks(lengths, num_frames):
    valid = torch.arange(num_frames) < torch.tensor(lengths)[:, None]
    return valid[:, None, None, :].expand(-1, 1, num_frames, -1)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 8, 9, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_stock_module(attention, num_frames, masked):
    fused = RelativeKeyAttention(copy.deepcopy(attention))
    assert list(fused.state_dict()) == list(attention.state_dict())
    hidden = torch.randn(3, num_frames, 32, generator=torch.Generator().manual_seed(1))
    visible = masks([num_frames, (num_frames + 1) // 2, 1], num_frames) if masked else None
    additive = None if visible is None else torch.where(visible, 0.0, torch.finfo().min)
    results = []
    for module, mask in ((attention, additive), (fused, visible)):
        module.zero_grad()
        leaf = hidden.clone().requires_grad_()
        output, _ = module(leaf, attention_mask=mask)
        output.square().sum().backward()
        results.append([output, leaf.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_frames_that_see_nothing_stay_finite(attention):
    fused = RelativeKeyAttention(copy.deepcopy(attention))
    output, _ = fused(torch.randn(1, 5, 32), torch.zeros(1, 1, 5, 5, dtype=torch.bool))
    assert output.isfinite().all()


def test_the_encoder_attends_through_it(encoder):
    layers = encoder("w2v_bert").layers
    assert all(isinstance(layer.self_attn, RelativeKeyAttention) for layer in layers)


def test_whole_encoder_equals_the_stock_one(encoder, checkpoint, stock_input, speech_like):
    """Adapters learn through the attention; padding has no influence on them."""
    from transformers import Wav2Vec2BertModel

    model = encoder("w2v_bert")
    waveform = speech_like(16000)
    _, values = stock_input("w2v_bert", waveform)
    reference = Wav2Vec2BertModel.from_pretrained(
        checkpoint("w2v_bert"), attn_implementation="eager", layerdrop=0.0, apply_spec_augment=False
    ).eval()
    gradients = []
    mask = torch.ones(1, values.shape[1], dtype=torch.bool)
    hidden = reference.feature_projection(values)[0].detach()
    reference.encoder.layers = reference.encoder.layers[: len(model.layers)]
    for transformer, padding in ((reference.encoder, 0), (model.transformer, 30)):
        leaf = hidden.clone().requires_grad_()
        padded = torch.nn.functional.pad(leaf, (0, 0, 0, padding))
        seen = torch.nn.functional.pad(mask, (0, padding))
        output = transformer(padded, attention_mask=seen).last_hidden_state[:, : hidden.shape[1]]
        output.square().sum().backward()
        gradients.append((output, leaf.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
