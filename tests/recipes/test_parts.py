from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from open_miipher.audio.mel import MelConfig
from open_miipher.base.errors import UserError
from open_miipher.base.plain import differing_keys
from open_miipher.checkpoint import Checkpoint, Content, write_checkpoint
from open_miipher.config import compose_run
from open_miipher.recipes import Recipe, fill_parts
from open_miipher.recipes.adversarial_vocoder import AdversarialVocoder, loud_starts
from open_miipher.recipes.parts import at_rate, check_crops, check_fit
from open_miipher.recipes.recipe import check_weights, frozen
from open_miipher.training.setup import build_recipe


def saved(tmp_path, **model) -> Checkpoint:
    folder = write_checkpoint(tmp_path, Content({"model": model}, {"step": 1}, {}))
    return Checkpoint.open(folder)


def test_empty_parts_come_from_earlier_stages(tmp_path):
    stage1 = saved(tmp_path / "1", encoder={"name": "log_mel"}, cleaner={"name": "conformer"})
    stage2 = saved(tmp_path / "2", encoder={"name": "log_mel"}, vocoder={"name": "wavefit"})
    vocoder = {"gradient_checkpointing": True}
    model = {"recipe": "r", "encoder": {}, "cleaner": {}, "vocoder": vocoder}
    assert fill_parts(AdversarialVocoder, model, [stage1, stage2]) == {
        "recipe": "r",
        "encoder": {"name": "log_mel"},
        "cleaner": {"name": "conformer"},
        "vocoder": {"name": "wavefit", "gradient_checkpointing": True},
    }


def test_stages_with_different_parts_do_not_join(tmp_path):
    stage1 = saved(tmp_path / "1", encoder={"name": "log_mel", "mel": {"n_mels": 80}})
    stage2 = saved(tmp_path / "2", encoder={"name": "log_mel", "mel": {"n_mels": 128}})
    with pytest.raises(UserError, match=r"model\.encoder\.mel\.n_mels differ"):
        fill_parts(AdversarialVocoder, {"encoder": {}}, [stage1, stage2])


def test_an_encoder_may_lie_elsewhere(tmp_path):
    stage1 = saved(tmp_path, encoder={"name": "usm_gemma4", "source": "/there", "num_layers": 6})
    filled = fill_parts(AdversarialVocoder, {"encoder": {"source": "/here"}}, [stage1])
    assert filled["encoder"] == {"name": "usm_gemma4", "source": "/here", "num_layers": 6}


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model\.cleaner is empty.*model\.cleaner_ckpt_dir"):
        fill_parts(AdversarialVocoder, {"cleaner": {}}, [saved(tmp_path)])


def test_differing_keys_are_leaves():
    a = {"x": {"y": 1, "z": [1, 2]}, "same": (1, 2)}
    b = {"x": {"y": 2, "z": [1, 2]}, "same": [1, 2], "new": 3}
    assert differing_keys(a, b) == ["x.y", "new"]


def test_lengths_follow_the_waveform_to_another_rate():
    waveform, lengths = at_rate(torch.zeros(2, 24001), torch.tensor([24001, 3]), 24000, 16000)
    assert waveform.shape == (2, 16001)
    assert lengths.tolist() == [16001, 2]


@pytest.mark.parametrize(("weights", "name"), [({"a": 1, "c": 1}, "c is"), ({"a": 1}, "b is")])
def test_weights_name_exactly_the_losses(weights, name):
    with pytest.raises(UserError, match=rf"model\.loss_weights\.{name} (not|missing)"):
        check_weights(weights, ("a", "b"))


def test_frozen_lets_gradients_through_but_not_in():
    network = nn.Linear(3, 3)
    network.bias.requires_grad_(False)
    x = torch.ones(1, 3, requires_grad=True)
    with frozen(network):
        network(x).sum().backward()
    assert x.grad is not None
    assert network.weight.grad is None
    assert [p.requires_grad for p in network.parameters()] == [True, False]


def test_loud_places_are_chosen_in_proportion():
    """Levels 3 and 1 in two halves: of pieces of one frame, three in four lie in the loud half."""
    waveform = np.concatenate([np.full(100, 0.3), np.full(100, 0.1)]).astype(np.float32)
    draws = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    starts = loud_starts(torch.from_numpy(waveform).expand(2000, -1), 10, 1, draws)
    assert starts.shape == (2000, 2)
    assert starts.min() >= 0
    assert starts.max() < 20
    assert (starts < 10).float().mean() == pytest.approx(0.75, abs=0.03)


def test_silence_has_places_too():
    draws = torch.tensor([[0.0, 0.5, 0.999999]])
    assert loud_starts(torch.zeros(1, 200), 10, 5, draws).tolist() == [[0, 7, 15]]
    assert loud_starts(torch.zeros(1, 200), 10, 5, draws, margin=4).tolist() == [[4, 7, 11]]


MEL = MelConfig(n_fft=4096)  # windows of twice the length fit, too


@pytest.mark.parametrize("name", [field.name for field in fields(MelConfig)])
def test_every_field_of_the_front_end_must_be_the_vocoder_s(name):
    """A vocoder of n_fft 1024 would take features of n_fft 2048 for its own."""
    value = getattr(MEL, name)
    other = replace(MEL, **{name: value * 2 if isinstance(value, int) else value * 0.5})
    encoder = SimpleNamespace(carries_level=True, mel=MEL)
    vocoder = SimpleNamespace(sample_rate=24000, restores_level=True, mel=other)
    with pytest.raises(UserError, match=rf"differs in {name} \("):
        check_fit(vocoder, encoder, 24000)
    vocoder.mel = replace(MEL)
    check_fit(vocoder, encoder, 24000)


def test_a_recipe_with_another_front_end_is_refused(tiny_stages):
    run = compose_run([*tiny_stages["pretrain"], "model.vocoder.mel.n_fft=4096"])
    with pytest.raises(UserError, match=r"differs in n_fft \(4096, the features have 2048\)"):
        build_recipe(run.model, SimpleNamespace(sample_rate=24000), 0)


def test_crops_that_say_too_little_of_their_file_are_refused():
    of_crop, of_nothing = (SimpleNamespace(needs_statistics=needs) for needs in (True, False))
    with pytest.raises(UserError, match=r"data\.crop_seconds=2\.9 .*give at least 3$"):
        check_crops(of_crop, SimpleNamespace(crop_seconds=2.9))
    check_crops(of_crop, SimpleNamespace(crop_seconds=3.0))
    check_crops(of_nothing, SimpleNamespace(crop_seconds=0.4))


@pytest.mark.parametrize("model", ["sidon_feature_predictor", "sidon_vocoder_pretrain"])
def test_every_recipe_asks_for_long_crops(model, monkeypatch):
    run = compose_run([f"model={model}", "data.crop_seconds=1"])
    asked = SimpleNamespace(needs_statistics=True, width=1024, frame_rate=50.0)
    monkeypatch.setattr(Recipe, "build", lambda *_, **__: asked)
    with pytest.raises(UserError, match=r"data\.crop_seconds=1 is too short"):
        build_recipe(run.model, run.data, 0)
