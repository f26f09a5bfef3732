"""LoRA as peft has it: the same outputs, gradients, files and sizes."""

import copy

import pytest
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS

SPEC = {"name": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.0}


@pytest.fixture
def cleaner(encoder):
    return build(CLEANERS, SPEC, encoder("w2v_bert"))


def whole(transformer):
    """The transformer under the name that it has in the whole model."""
    module = nn.Module()
    module.encoder = transformer
    module.forward = transformer.forward
    return module


@pytest.fixture
def with_peft(cleaner):
    """The encoder's transformer as peft adapts it, with random weights in the adapters."""
    import peft

    config = peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, bias="lora_only", target_modules=["output_dense"]
    )
    model = peft.get_peft_model(whole(copy.deepcopy(cleaner.encoder.transformer)), config)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_names_outputs_and_gradients_are_pefts(cleaner, with_peft, batch, tmp_path):
    from safetensors.torch import load_file

    with_peft.save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    assert set(state) == set(cleaner.trained_state_dict())
    cleaner.load_trained_state_dict(state)
    cleaner.eval()
    expected_encoder = copy.deepcopy(cleaner.encoder)
    expected_encoder.transformer = with_peft
    outputs = []
    for network in (cleaner, expected_encoder):
        features, _ = network(*batch)
        features.square().mean().backward()
        outputs.append(features)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    theirs = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in with_peft.named_parameters()
        if parameter.requires_grad
    }
    for name, parameter in cleaner.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name], atol=1e-5, rtol=1e-4)


def test_peft_reads_what_we_save(cleaner, with_peft, batch):
    import peft

    for parameter in cleaner.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    cleaner.eval()
    result = peft.set_peft_model_state_dict(with_peft, cleaner.trained_state_dict())
    assert not result.unexpected_keys
    encoder = copy.deepcopy(cleaner.encoder)
    encoder.transformer = with_peft
    with torch.no_grad():
        torch.testing.assert_close(cleaner(*batch)[0], encoder(*batch)[0], atol=1e-5, rtol=1e-5)


def test_sidons_size(tmp_path):
    """Eight layers of w2v-BERT 2.0: 16 maps, 5,242,880 weights, and their biases."""
    import transformers

    from open_miipher.encoders import ENCODERS

    config = transformers.Wav2Vec2BertConfig(num_hidden_layers=8)
    with torch.device("meta"):
        model = transformers.Wav2Vec2BertModel(config)
    encoder = build(ENCODERS, {"name": "log_mel"})
    type(encoder).layers, before = property(lambda _: model.encoder.layers), type(encoder).layers
    try:
        with torch.device("meta"):
            cleaner = build(CLEANERS, {"name": "lora"}, encoder)
    finally:
        type(encoder).layers = before
    state = cleaner.trained_state_dict()
    matrices = {name: t for name, t in state.items() if t.ndim == 2}
    assert len(matrices) == 32
    assert sum(t.numel() for t in matrices.values()) == 5_242_880
    assert len(state) == 48
    first = "base_model.model.encoder.layers.0.ffn1.output_dense"
    assert state[f"{first}.lora_A.weight"].shape == (64, 4096)
    assert state[f"{first}.lora_B.weight"].shape == (1024, 64)


def test_dropout_acts_in_training_alone(encoder, batch):
    cleaner = build(CLEANERS, {**SPEC, "dropout": 0.5}, encoder("w2v_bert"))
    for parameter in cleaner.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    cleaner.train()
    assert not torch.equal(cleaner(*batch)[0], cleaner(*batch)[0])
    assert torch.equal(cleaner.teacher(*batch)[0], cleaner.teacher(*batch)[0])
    cleaner.eval()
    assert torch.equal(cleaner(*batch)[0], cleaner(*batch)[0])


def test_a_merged_cleaner_has_no_teacher(cleaner, batch):
    cleaner.merge()
    with pytest.raises(RuntimeError, match="no teacher"):
        cleaner.teacher(*batch)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("w2v_bert", {"target": "dense_output"}, "target=dense_output names no linear map"),
        ("log_mel", {}, "names no linear map"),
        ("w2v_bert", {"rank": 0}, "rank=0 must be at least 1"),
        ("w2v_bert", {"dropout": 1.5}, "dropout probability"),
    ],
)
def test_what_does_not_fit_is_refused(encoder, kind, fields, words):
    with pytest.raises(UserError, match=words):
        build(CLEANERS, {**SPEC, **fields}, encoder(kind))
