"""The diffusion's recipe: its loss, its validation, its sounds, and what it is called."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import waits
from tiny_diffusion import BACKBONES, RATE, VOCODER, overrides

from open_miipher.base.errors import UserError
from open_miipher.config import compose_plain, compose_run
from open_miipher.data import AudioBatch
from open_miipher.distributed import start
from open_miipher.recipes import named_output_dir
from open_miipher.training import prepare
from open_miipher.training.setup import build_recipe


def recipe_of(*more: str, directory="nowhere", backbone: str = "wavenet"):
    run = compose_run(overrides(backbone, directory, *more))
    return build_recipe(run.model, run.data, 0)


def batch(positions=(0, 1, 2), num_samples: int = 1000) -> AudioBatch:
    waveform = torch.stack(
        [0.3 * torch.sin(torch.arange(num_samples) * 0.1 * (p + 1)) for p in positions]
    )
    lengths = torch.full((len(positions),), num_samples)
    names = [str(p) for p in positions]
    return AudioBatch(torch.tensor(positions), names, [], waveform, lengths, None)


@pytest.fixture(params=[(name, more) for name in BACKBONES for more in ((), tuple(VOCODER))])
def recipe(request):
    name, more = request.param
    recipe = recipe_of(*more, backbone=name)
    torch.nn.init.normal_(recipe.backbone.last.out.weight, std=0.3)
    return recipe


def test_the_loss_is_the_mean_of_each_sample_s_own(recipe):
    """What is drawn for a sample does not depend on those beside it."""
    whole = next(recipe.passes(batch(), recipe.trained))
    alone = [next(recipe.passes(batch((p,)), recipe.trained)).loss for p in range(3)]
    assert whole.network == "backbone"
    torch.testing.assert_close(whole.loss, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)
    other = next(recipe.passes(batch((3, 4, 5)), recipe.trained)).loss
    assert not torch.isclose(other, whole.loss, rtol=1e-4)


def test_a_backbone_that_says_nothing_has_the_noise_as_its_error():
    recipe = recipe_of()
    assert next(recipe.passes(batch(), recipe.trained)).loss.item() == pytest.approx(1.0, abs=0.1)


def test_validation_is_the_same_each_time_and_of_all_levels(recipe, monkeypatch):
    asked = []
    noisy = recipe.schedule.noisy
    monkeypatch.setattr(
        recipe.schedule, "noisy", lambda c, n, steps: asked.append(steps) or noisy(c, n, steps)
    )
    with torch.no_grad():
        first, second = (recipe.validate(batch((5,))) for _ in range(2))
    assert first == second
    assert set(first) == {"loss"}
    assert asked[0].tolist() == list(range(8))


def test_a_vocoder_s_guess_depends_on_its_mel_and_on_mels_from_files_alike():
    recipe = recipe_of(*VOCODER)
    torch.nn.init.normal_(recipe.backbone.last.out.weight)
    own = batch()
    log_mel = recipe.condition.log_mel(own.waveform).transpose(1, 2)
    assert log_mel.shape == (3, 20, 16)
    losses = [
        next(recipe.passes(replace(own, mels=mels), recipe.trained)).loss.item()
        for mels in (None, log_mel, log_mel.flip(0))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 1e-3


def test_sounds_come_from_nothing_or_from_a_clip_s_mel():
    recipe = recipe_of("model.diffusion.T=3")
    sounds = recipe.samples(None)
    assert list(sounds) == ["000000", "000001", "000002", "000003"]
    assert all(s.waveform.shape == (1000,) and s.sample_rate == RATE for s in sounds.values())
    of_clip = recipe.samples(batch((2,)))
    assert torch.allclose(of_clip["generated"].waveform, sounds["000002"].waveform, atol=1e-5)
    vocoder = recipe_of(*VOCODER, "model.diffusion.T=3")
    assert vocoder.samples(None) == {}
    heard = vocoder.samples(batch((2,), 900))
    assert {name: len(s.waveform) for name, s in heard.items()} == {
        "original": 900,
        "generated": 900,
    }


def test_state_space_parameters_have_their_own_rate_and_do_not_decay():
    recipe = recipe_of("model.ssm_lr_scale=0.25", backbone="sashimi")
    groups = recipe.parameter_groups(recipe.backbone)
    names = {id(p): n for n, p in recipe.backbone.named_parameters()}
    of_ssm = [group for group in groups if group.lr_scale != 1.0]
    assert [(group.decays, group.lr_scale) for group in of_ssm] == [(False, 0.25)]
    kinds = {names[id(p)].rpartition(".")[2] for p in of_ssm[0].parameters}
    assert kinds == {"log_dt", "log_A_real", "A_imag", "B", "C"}
    all_ids = [id(p) for group in groups for p in group.parameters]
    assert sorted(all_ids) == sorted(names)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model=sashimi"], "unet_d128_n6_pool_2_expand2_ff2_T200_betaT0.02_uncond"),
        (["model=sashimi_small"], "unet_d64_n6_pool_2_expand2_ff2_T200_betaT0.02_uncond"),
        (["model=wavenet", "experiment=sc09"], "wnet_h256_d36_T200_betaT0.02_uncond"),
        (
            ["model=diffwave_vocoder_64", "experiment=ljspeech"],
            "wnet_h64_d30_T50_betaT0.05_hop256",
        ),
        (["model=diffwave_vocoder_128"], "wnet_h128_d30_T200_betaT0.02_hop256"),
    ],
)
def test_a_run_is_named_by_what_identifies_it(words, name):
    assert named_output_dir(compose_plain(words)["model"]) == f"output/{name}"


def test_other_recipes_name_no_run():
    assert named_output_dir(compose_plain(["model=small_restorer"])["model"]) is None


def test_a_run_goes_to_its_name_and_goes_on_from_there(tones, tmp_path, monkeypatch):
    """Also at another rate, which the log tells."""
    monkeypatch.chdir(tmp_path)
    words = overrides("wavenet", tones, "trainer.sample_every=2", "trainer.num_samples=2")
    words.append("trainer.log_every=1")
    first = [*words, "trainer.max_steps=2", "trainer.ckpt_dir=auto"]
    prepare(compose_run(first), start("cpu")).run()
    folder = tmp_path / "output/wnet_h8_d4_T8_betaT0.4_uncond"
    sounds = sorted(p.name for p in (folder / "waveforms/step-00000002").glob("*.flac"))
    assert sounds == ["clip-00-generated.flac", "clip-01-generated.flac"]
    more = ["trainer.max_steps=3", "trainer.ckpt_dir=auto", "optimizer.lr=1e-4"]
    trainer = prepare(compose_run([*words, *more]), start("cpu"))
    assert trainer.state.step == 2
    trainer.run()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [(row["step"], row["lr"]) for row in rows] == [(1, 1e-3), (2, 1e-3), (3, 1e-4)]
    assert trainer.state.optimizers["backbone"].param_groups[0]["lr"] == 1e-4
    assert "optimizer.backbone.lr=1e-4" in (folder / "train.log").read_text()


def test_a_chosen_mel_is_what_a_vocoder_s_sounds_are_made_of(tones, tmp_path):
    """`generate.mel_name`; the public code's LJ001-0001."""
    more = ["data.test.dir_list=[]", "trainer.sample_every=1", "trainer.max_steps=1"]
    words = overrides("wavenet", tones, *VOCODER, *more, f"trainer.output_dir={tmp_path / 'run'}")
    prepare(compose_run([*words, "generate.mel_name=3"]), start("cpu")).run()
    folder = tmp_path / "run/waveforms/step-00000001"
    assert sorted(p.name for p in folder.glob("*.flac")) == [
        "clip-00-generated.flac",
        "clip-00-original.flac",
    ]
    heard, _ = soundfile.read(folder / "clip-00-original.flac")
    chosen, _ = soundfile.read(Path(tones) / "3.wav")
    starts = range(len(chosen) - len(heard) + 1)
    assert min(np.abs(chosen[n : n + len(heard)] - heard).max() for n in starts) < 1e-3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([*VOCODER, "generate.mel_name=LJ001-0001"], "no file of data.test.dir_list or data.train"),
        (["generate.mel_name=3"], "chooses the mel that a vocoder is tried on"),
    ],
)
def test_a_mel_that_cannot_be_chosen_is_told_before_anything_is_trained(
    tones, tmp_path, more, words
):
    plain = overrides("wavenet", tones, *more, f"trainer.output_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=words):
        prepare(compose_run(plain), start("cpu"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["model.in_channels=2", "model.out_channels=2"], "audio is read as one channel"),
        (["data.train.mel_dir=mels"], "model.unconditional=true hears no mel"),
        ([*VOCODER, "model.mel_upsample=[8,16]"], r"128 samples a frame \(8 × 16\) .*=64"),
        ([*VOCODER, "model.mel.sample_rate=16000"], "sample_rate=16000 but data.sample_rate=8000"),
        ([*VOCODER, "model.mel=null"], "model.unconditional=false needs model.mel"),
        (
            [*VOCODER, "data.train.mel_dir=mels", "model.mel.n_mels=40"],
            "have 20 bands and a hop of 64 .* has 40 and 64",
        ),
        (
            [*VOCODER, "data.test.mel_dir=mels", "model.mel.n_mels=40"],
            "the mels in data.test.mel_dir have 20 bands",
        ),
        (["data.test.mel_dir=mels"], "hears no mel, but data.test.mel_dir is given"),
        ([*VOCODER, "model.mel.f_max=4001"], "f_max=4001 is above half its sample rate, 4000 Hz"),
        ([*VOCODER, "model.mel.win_length=512"], "win_length=512 and n_fft=256 must be above 0"),
        (["+model.ssm_lr_scale=0"], r"model\.ssm_lr_scale=0 must be above 0"),
        (["model.diffusion.T=1"], "T=1 must be at least 2"),
        (["+model.d_model=8"], "unknown key model.d_model"),
        (["model.backbone=unet"], "model.backbone='unet' must be one of wavenet, sashimi"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(more, words):
    with pytest.raises(UserError, match=words):
        recipe_of(*more)


@pytest.mark.parametrize("part", ["train", "test"])
def test_mels_in_files_are_of_the_model_s_front_end(part, tmp_path):
    words = [*VOCODER, f"data.{part}.mel_dir={tmp_path}"]
    front_end = compose_plain(overrides("wavenet", "nowhere", *words))["model"]["mel"]
    note = tmp_path / "mel.json"
    note.write_text(json.dumps({**front_end, "f_max": 4000}))
    recipe_of(*words)
    note.write_text(json.dumps({**front_end, "f_max": 3000}))
    with pytest.raises(UserError, match="another front end than the model's: f_max is 3000, not 4"):
        recipe_of(*words)


def test_the_generated_sounds_are_of_full_scale_at_most(recipe):
    with torch.no_grad():
        sounds = recipe.samples(batch((0,)))
    assert np.abs(sounds["generated"].waveform.numpy()).max() <= 1.0


def test_nothing_in_a_pass_waits_for_the_device(recipe):
    assert not waits.of_passes(recipe, batch)
