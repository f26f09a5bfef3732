import numpy as np
import pytest
import torch
from torch import nn

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint, Content, write_checkpoint
from open_miipher.recipes import differing_keys, fill_parts
from open_miipher.recipes.adversarial_vocoder import loud_starts
from open_miipher.recipes.parts import at_rate
from open_miipher.recipes.recipe import check_weights, frozen, sample_noise, sample_uniform


def saved(tmp_path, **model) -> Checkpoint:
    folder = write_checkpoint(tmp_path, Content({"model": model}, {"step": 1}, {}))
    return Checkpoint.open(folder)


def test_empty_parts_come_from_earlier_stages(tmp_path):
    stage1 = saved(tmp_path / "1", encoder={"name": "log_mel"}, cleaner={"name": "conformer"})
    stage2 = saved(tmp_path / "2", encoder={"name": "log_mel"}, vocoder={"name": "wavefit"})
    vocoder = {"gradient_checkpointing": True}
    model = {"recipe": "r", "encoder": {}, "cleaner": {}, "vocoder": vocoder}
    assert fill_parts(model, [stage1, stage2]) == {
        "recipe": "r",
        "encoder": {"name": "log_mel"},
        "cleaner": {"name": "conformer"},
        "vocoder": {"name": "wavefit", "gradient_checkpointing": True},
    }


def test_stages_with_different_parts_do_not_join(tmp_path):
    stage1 = saved(tmp_path / "1", encoder={"name": "log_mel", "mel": {"n_mels": 80}})
    stage2 = saved(tmp_path / "2", encoder={"name": "log_mel", "mel": {"n_mels": 128}})
    with pytest.raises(UserError, match=r"model\.encoder\.mel\.n_mels differ"):
        fill_parts({"encoder": {}}, [stage1, stage2])


def test_an_encoder_may_lie_elsewhere(tmp_path):
    stage1 = saved(tmp_path, encoder={"name": "usm_gemma4", "source": "/there", "num_layers": 6})
    filled = fill_parts({"encoder": {"source": "/here"}}, [stage1])
    assert filled["encoder"] == {"name": "usm_gemma4", "source": "/here", "num_layers": 6}


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model\.cleaner is empty.*model\.cleaner_ckpt_dir"):
        fill_parts({"cleaner": {}}, [saved(tmp_path)])


def test_differing_keys_are_leaves():
    a = {"x": {"y": 1, "z": [1, 2]}, "same": (1, 2)}
    b = {"x": {"y": 2, "z": [1, 2]}, "same": [1, 2], "new": 3}
    assert differing_keys(a, b) == ["x.y", "new"]


def test_lengths_follow_the_waveform_to_another_rate():
    waveform, lengths = at_rate(torch.zeros(2, 24001), torch.tensor([24001, 3]), 24000, 16000)
    assert waveform.shape == (2, 16001)
    assert lengths.tolist() == [16001, 2]


@pytest.mark.parametrize(("weights", "name"), [({"a": 1, "c": 1}, "k.c"), ({"a": 1}, "k.b")])
def test_weights_name_exactly_the_losses(weights, name):
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        check_weights(weights, ("a", "b"), "k")


def test_frozen_lets_gradients_through_but_not_in():
    network = nn.Linear(3, 3)
    network.bias.requires_grad_(False)
    x = torch.ones(1, 3, requires_grad=True)
    with frozen(network):
        network(x).sum().backward()
    assert x.grad is not None
    assert network.weight.grad is None
    assert [p.requires_grad for p in network.parameters()] == [True, False]


def test_noise_depends_on_seed_and_position_alone():
    alone = sample_noise(5, torch.tensor([7]), 1000)
    among = sample_noise(5, torch.tensor([3, 7]), 1000)
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[0], among[1])
    assert not torch.equal(alone, sample_noise(6, torch.tensor([7]), 1000))
    assert sample_uniform(5, torch.arange(2000)).mean() == pytest.approx(0.5, abs=0.03)


def test_loud_places_are_chosen_in_proportion():
    """Levels 3 and 1 in two halves: of pieces of one frame, three in four lie in the loud half."""
    waveform = np.concatenate([np.full(100, 0.3), np.full(100, 0.1)]).astype(np.float32)
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    starts = loud_starts(torch.from_numpy(waveform).expand(4000, -1), 10, 1, draws)
    assert starts.min() >= 0
    assert starts.max() < 20
    assert (starts < 10).float().mean() == pytest.approx(0.75, abs=0.03)


def test_silence_has_places_too():
    starts = loud_starts(torch.zeros(3, 200), 10, 5, torch.tensor([0.0, 0.5, 0.999999]))
    assert starts.tolist() == [0, 7, 15]
