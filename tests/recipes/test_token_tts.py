"""The text-to-speech recipe: what its loss counts, its scores, its sounds, and what it is given."""

import json
import math

import pytest
import torch
import waits
from tiny_codec import make_codec
from tiny_tts import RATE, overrides

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import Checkpoint
from open_miipher.config import compose_plain, compose_run
from open_miipher.data import TokenBatch
from open_miipher.distributed import World, start
from open_miipher.recipes.token_tts import cross_entropy
from open_miipher.training import prepare
from open_miipher.training.setup import build_recipe


@pytest.fixture(scope="module")
def recipe(spoken, tmp_path_factory):
    run = compose_run(overrides(spoken))
    world = World(0, 1, torch.device("cpu"))
    run.data.make(tmp_path_factory.mktemp("run"), world, lambda text: None)
    return build_recipe(run.model, run.data, 0)


def batch(lengths=(20, 45, 60), positions=(0, 1, 2), frames: int | None = None) -> TokenBatch:
    """Items whose codes depend on their positions; 60 frames are the most."""
    frames = frames or max(lengths)
    codes, text = torch.zeros(len(lengths), frames, 2, dtype=torch.int64), []
    for row, (length, position) in enumerate(zip(lengths, positions, strict=True)):
        drawn = torch.randint(1024, (60, 2), generator=torch.manual_seed(position))
        codes[row, :length] = drawn[:length]
        text.append([*range(4 + position, 9 + position), 1])
    counts = torch.full((len(lengths),), 6)
    names = [str(p) for p in positions]
    given = (torch.tensor(text), counts, codes, torch.tensor(lengths))
    return TokenBatch(torch.tensor(positions), names, [], *given)


def test_the_loss_is_the_mean_of_each_sample_s_own_however_it_is_padded(recipe):
    whole = next(recipe.passes(batch(), recipe.trained))
    alone = [
        next(recipe.passes(batch((n,), (p,)), recipe.trained)).loss
        for p, n in enumerate((20, 45, 60))
    ]
    assert whole.network == "token_tts"
    torch.testing.assert_close(whole.loss, torch.stack(alone).mean(), rtol=1e-5, atol=1e-5)
    assert set(whole.losses) == {"codebook_0", "codebook_1"}
    torch.testing.assert_close(torch.stack(list(whole.losses.values())).mean(), whole.loss)
    assert whole.loss.item() == pytest.approx(math.log(1024), rel=0.15)  # it knows nothing yet


def test_each_place_counts_once_and_the_end_where_speech_has_one(recipe):
    targets, counts = recipe._targets(batch(), 0)
    assert targets.shape == (3, 60)
    assert counts.sum(1).tolist() == [21, 46, 60]  # the last is as long as can be said
    assert [targets[0, 20].item(), targets[1, 45].item()] == [1024, 1024]
    assert targets[2].max() < 1024
    targets, counts = recipe._targets(batch((20, 45)[:2], (0, 1)), 0)
    assert targets.shape == (2, 46)
    assert targets[1, 45] == 1024
    targets, counts = recipe._targets(batch(), 1)
    assert counts.sum(1).tolist() == [20, 45, 60]
    assert targets.max() < 1024


def test_cross_entropy_is_what_the_probabilities_say():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]]]))
    targets, counts = torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 1.0, 0.0]])
    wanted = -(math.log(0.5) + math.log(0.8)) / 2
    assert cross_entropy(logits, targets, counts).item() == pytest.approx(wanted)


@torch.no_grad()
def test_validation_is_teacher_forced(recipe):
    scores = recipe.validate(batch((45,), (1,)))
    assert scores["loss"] == pytest.approx(
        next(recipe.passes(batch((45,), (1,)), recipe.trained)).loss.item(), rel=1e-5
    )
    assert 0 <= scores["accuracy"] < 0.05
    assert recipe.samples(None) == {}


@torch.no_grad()
def test_samples_are_a_clip_and_its_text_as_the_model_says_it(recipe):
    sounds = recipe.samples(batch((45,), (1,)))
    assert {name: sound.sample_rate for name, sound in sounds.items()} == {
        "original": RATE,
        "spoken": RATE,
    }
    assert len(sounds["original"].waveform) == 45 * 320
    assert 0 < len(sounds["spoken"].waveform) <= 60 * 320
    again = recipe.samples(batch((45,), (1,)))
    assert torch.equal(again["spoken"].waveform, sounds["spoken"].waveform)


def test_nothing_in_a_pass_waits_for_the_device(recipe):
    assert not waits.of_passes(recipe, batch)


def test_a_run_tells_what_it_has_and_keeps_its_codec(spoken, tmp_path, capsys):
    more = [f"trainer.output_dir={tmp_path}", "trainer.max_steps=2", "trainer.sample_every=2"]
    given = overrides(spoken, *more, "trainer.log_every=1", "trainer.validate_every=1")
    prepare(compose_run(given), start("cpu")).run()
    printed = capsys.readouterr().out
    assert "makes the tokens of 10 utterances in" in printed
    assert "trains on 10 utterances, 3.6 s, each 2 times" in printed
    sounds = sorted(p.name for p in (tmp_path / "samples/step-00000002").glob("*.flac"))
    assert sounds[:2] == ["clip-00-original.flac", "clip-00-spoken.flac"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert {"loss", "codebook_0", "codebook_1"} <= rows[0].keys()
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.names == ["token_tts"]
    assert checkpoint.networks["token_tts"].arguments == [2, 1024, 60, 511, 9]
    assert len(checkpoint.networks["codec"].fingerprint) == 16
    other = tmp_path / "other"
    make_codec(other, num_filters=6)
    resumed = [f"trainer.ckpt_dir={tmp_path}", f"codec.source={other}", "trainer.max_steps=3"]
    with pytest.raises(UserError, match="a base codec with other weights"):
        prepare(compose_run(resumed), start("cpu"))


def test_the_experiments_set_what_their_names_say():
    small = compose_plain(["model=token_tts_small", "experiment=tts_small_train"])
    assert small["codec"] == {"source": "facebook/encodec_24khz", "bandwidth": 1.5}
    assert small["data"]["codec"] == small["codec"]
    assert small["trainer"]["max_steps"] == 1000
    two = compose_plain(["model=token_tts_small", "experiment=tts_two_secs_augmented"])
    assert two["data"]["seconds"] == 2.0
    assert two["data"]["augmentation_factor"] == 4
    assert two["data"]["augmentation_sigma"] == 6e-4
    assert two["data"]["long_text"] == "drop"
    optimizer = two["optimizer"]["token_tts"]
    assert (two["trainer"]["batch_size"], optimizer["lr"]) == (64, 2e-3)
    assert (optimizer["weight_decay"], optimizer["warmup_steps"]) == (0.15, 100)
    demo = compose_plain(
        ["model=demo_token_tts", "experiment=tts_small_train", "codec.bandwidth=3"]
    )
    assert demo["data"]["codec"] == {"source": "demo", "bandwidth": 3}


def test_the_wrong_data_is_refused(spoken, tmp_path):
    given = overrides(spoken, "data=audio", f"trainer.output_dir={tmp_path}")
    kept = [o for o in given if not o.startswith(("data.seconds", "data.augm"))]
    with pytest.raises(UserError, match="trains on texts with the tokens of speech, but data"):
        prepare(compose_run(kept), start("cpu"))
