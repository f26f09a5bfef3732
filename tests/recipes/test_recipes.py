"""The passes of a step, for every recipe at a small size."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.checkpoint import load_weights, weights_of
from open_miipher.config import compose_run
from open_miipher.data import PairBatch
from open_miipher.recipes import RECIPES, adversarial_vocoder, fill_parts, recipe_class
from open_miipher.training.setup import build_recipe
from open_miipher.vocoders.gain import PeakGain

DATA = SimpleNamespace(sample_rate=24000)


def batch(size: int = 2, samples: int = 9600) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    clean = 0.1 * torch.randn(size, samples, generator=generator)
    lengths = torch.tensor([samples, samples // 2][:size])
    clean = clean * (torch.arange(samples) < lengths[:, None])
    damaged = clean + 0.01 * torch.randn(size, samples, generator=generator)
    return PairBatch(torch.arange(size), ["a", "b"][:size], [], clean, damaged, lengths)


LEAST_SQUARES = [
    "+model.adversarial=least_squares",
    "model.stft=null",
    "+model.mel={n_mels: [10, 40], win_lengths: [128, 512]}",
    "~model.loss_weights",
    "+model.loss_weights={adversarial: 2.0, feature_matching: 1.0, mel: 15.0}",
]


@pytest.fixture(
    scope="module",
    params=["cleaner", "pretrain", "wavenext2", "least_squares", "finetune", "waveform"],
)
def model(request, tiny_stages):
    from open_miipher.checkpoint import Checkpoint

    stages = {**tiny_stages, "least_squares": [*tiny_stages["pretrain"], *LEAST_SQUARES]}
    run = compose_run(stages[request.param])
    keys = ("cleaner_ckpt_dir", "vocoder_ckpt_dir")
    sources = [Checkpoint.open(run.model[key]) for key in keys if run.model.get(key)]
    return fill_parts(recipe_class(run.model), run.model, sources)


@pytest.fixture
def recipe(model):
    return build_recipe(model, DATA, 0)


def test_every_recipe_of_pairs_has_a_stage():
    """But for the diffusion, which trains on audio first; see test_diffusion.py."""
    of_pairs = {name for name, recipe in RECIPES.items() if recipe.data_kinds == (PairBatch,)}
    assert of_pairs == {"feature_cleaner", "adversarial_vocoder", "waveform_cleaner"}


def test_each_pass_reaches_its_network_alone(recipe):
    for item in recipe.passes(batch(), recipe.trained):
        for network in recipe.trained.values():
            network.zero_grad(set_to_none=True)
        item.loss.backward()
        for name, network in recipe.trained.items():
            gradients = [p.grad for p in network.parameters() if p.requires_grad]
            if name == item.network:
                assert all(g is not None and g.isfinite().all() for g in gradients)
            else:
                assert all(g is None for g in gradients), f"{item.network} leaks into {name}"
        for network in recipe.frozen.values():
            assert all(p.grad is None for p in network.parameters())


def test_the_discriminators_judge_all_outputs_as_one_batch_without_their_graph(tiny_stages):
    recipe = build_recipe(compose_run(tiny_stages["pretrain"]).model, DATA, 0)
    heard = []

    def watched(waveform, only_logits):
        heard.append(waveform)
        return recipe.discriminators(waveform, only_logits)

    networks = {**recipe.trained, "discriminator": watched}
    assert len(list(recipe.passes(batch(), networks))) == 2
    [waveform] = heard
    assert len(waveform) == 2 * (1 + recipe.vocoder.config.num_iterations)
    assert not waveform.requires_grad


def test_what_no_output_can_hold_is_asked_of_none(tiny_stages):
    recipe = build_recipe(compose_run(tiny_stages["pretrain"]).model, DATA, 0)
    recipe.vocoder.num_missing, recipe.draw_pieces.num_frames = 26, None
    given = batch()
    target, _, pieces = recipe.draw_pieces(given.clean, given.lengths, given.positions, 32)
    assert target[:1, -30:-26].all()
    assert not target[:, -26:].any()
    assert not pieces.mask[:, -26:].any()


def test_pieces_keep_their_level_within_the_crop(tiny_stages):
    """A quiet piece was brought to full peak, as no file is."""
    run = compose_run([*tiny_stages["pretrain"], "+model.pieces_per_crop=3"])
    recipe = build_recipe(run.model, DATA, 0)
    recipe.vocoder.gain, recipe.vocoder.restores_level = PeakGain(), False
    given = batch()
    given.clean[0, :4800] *= 0.01
    target, _, pieces = recipe.draw_pieces(given.clean, given.lengths, given.positions, 32)
    assert pieces.crops.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(pieces.starts.tolist())) > 2
    spans = pieces.starts[:, None] * 300 + torch.arange(pieces.num_frames * 300)
    cut = given.clean[pieces.crops[:, None], spans]
    gains = 0.9 / given.clean[pieces.crops].abs().amax(1, keepdim=True)
    torch.testing.assert_close(target, gains * cut)
    torch.testing.assert_close(pieces.peaks, target.abs().amax(1))
    outputs = recipe.vocoder(recipe._features(given), torch.randn_like(target), pieces)
    torch.testing.assert_close(outputs[-1].abs().amax(1), pieces.peaks)


def test_more_pieces_of_a_crop_cost_one_pass_of_the_cleaner(tiny_stages, monkeypatch):
    from open_miipher.checkpoint import Checkpoint

    run = compose_run([*tiny_stages["finetune"], "+model.pieces_per_crop=3"])
    sources = [Checkpoint.open(run.model[key]) for key in ("cleaner_ckpt_dir", "vocoder_ckpt_dir")]
    recipe = build_recipe(fill_parts(recipe_class(run.model), run.model, sources), DATA, 0)
    calls, forward = [], recipe.cleaner.forward
    monkeypatch.setattr(
        recipe.cleaner, "forward", lambda *given: [calls.append(1), forward(*given)][1]
    )
    whole = batch()
    three = next(recipe.passes(whole, recipe.trained)).losses
    assert len(calls) == 1
    draw, recipe.draw_pieces.num_pieces = adversarial_vocoder._PIECE, 1
    singles = []
    for number in range(3):  # the same pieces, one after the other
        monkeypatch.setattr(adversarial_vocoder, "_PIECE", draw + number)
        singles.append(next(recipe.passes(whole, recipe.trained)).losses)
    for name, value in three.items():
        mean = sum(single[name] for single in singles) / 3
        assert value.item() == pytest.approx(mean.item(), rel=1e-4, abs=1e-6), name


def test_losses_are_means_over_samples(recipe):
    both = [item.losses for item in recipe.passes(batch(), recipe.trained)]
    whole = batch()
    for number, losses in enumerate(both):
        singles = []
        for i in range(2):
            one = PairBatch(
                whole.positions[i : i + 1], ["x"], [], whole.clean[i : i + 1],
                whole.damaged[i : i + 1], whole.lengths[i : i + 1],
            )  # fmt: skip
            singles.append(list(recipe.passes(one, recipe.trained))[number].losses)
        for name, value in losses.items():
            mean = sum(single[name] for single in singles) / 2
            assert value.item() == pytest.approx(mean.item(), rel=1e-4, abs=1e-6), name


def test_scores_and_samples_of_a_clip(recipe):
    clip = batch(size=1)
    with torch.no_grad():
        scores = recipe.validate(clip)
        sounds = recipe.samples(clip)
    assert scores[recipe.score] > 0
    assert {name for name in recipe.scores if name not in recipe.rising} <= scores.keys()
    first = next(recipe.passes(clip, recipe.trained))
    assert scores["loss"] == pytest.approx(first.loss.item(), rel=1e-5)
    assert {name: scores[name] for name in first.losses} == pytest.approx(
        {name: value.item() for name, value in first.losses.items()}, rel=1e-5
    )
    assert bool(sounds) == ("generator" in recipe.saved)
    for sound in sounds.values():
        assert sound.waveform.shape == (9600,)
        assert sound.waveform.isfinite().all()
        assert sound.sample_rate == 24000
    assert recipe.samples(None) == {}


def test_full_batches_need_no_mask(tiny_stages, monkeypatch):
    recipe = build_recipe(compose_run(tiny_stages["cleaner"]).model, DATA, 0)
    masks, attend = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, attn_mask=None: [masks.append(attn_mask), attend(*a, attn_mask=attn_mask)][1],
    )
    padded = batch()
    full = replace(padded, lengths=torch.tensor([9600, 9600]))
    expected = next(recipe.passes(full, recipe.trained)).loss
    loss = next(recipe.passes(replace(full, is_full=True), recipe.trained)).loss
    assert [mask is None for mask in masks] == [False, True]
    torch.testing.assert_close(loss, expected)


def test_a_vocoder_is_judged_by_dnsmos_if_asked(tiny_stages):
    pytest.importorskip("speechmos")
    recipe = build_recipe(compose_run(tiny_stages["pretrain"]).model, DATA, 0)
    recipe.best_by = ["mel_distance", "dnsmos_overall"]
    with torch.no_grad():
        scores = recipe.validate(batch(size=1))
    assert 1.0 <= scores["dnsmos_overall"] <= 5.0
    assert recipe.overall(scores) == pytest.approx(
        (scores["mel_distance"] / scores["dnsmos_overall"]) ** 0.5
    )
    assert recipe._opinions(torch.zeros(24000))["dnsmos_overall"] == 1.0


def test_weights_go_round(recipe):
    for network in recipe.saved.values():
        state = {k: v.clone() for k, v in weights_of(network).items()}
        assert state or not list(network.parameters())
        load_weights(network, {k: v + 1 for k, v in state.items()}, Path("here"))
        for key, value in weights_of(network).items():
            assert torch.equal(value, state[key] + 1)


def test_everything_moves_to_the_device(recipe):
    """On `meta`, a device of its own, whatever stayed behind shows."""
    recipe.to(torch.device("meta"))
    modules = [value for value in vars(recipe).values() if isinstance(value, torch.nn.Module)]
    assert modules
    for module in modules:
        tensors = [*module.parameters(), *module.buffers()]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, type(module).__name__


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.stft=null"], "model.stft and model.mel are both empty"),
        (["+model.mel={}"], "model.loss_weights.mel is missing"),
        ([*LEAST_SQUARES, "+model.loss_weights.stft_convergence=1.0"], "is not a loss"),
        (["+model.adversarial=wasserstein"], "must be one of hinge, least_squares"),
    ],
)
def test_losses_that_do_not_fit_are_refused(overrides, words, tiny_stages):
    run = compose_run([*tiny_stages["pretrain"], *overrides])
    with pytest.raises(UserError, match=words):
        build_recipe(run.model, DATA, 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.vocoder.power=0.5"], "make them equal"),
        (["model.vocoder.n_fft=1536"], "the istft vocoder inverts features of 2307 values"),
        (["data.sample_rate=48000"], "the vocoder makes 24000 Hz but data.sample_rate=48000"),
        (["~model.loss_weights.complex"], r"model\.loss_weights\.complex is missing"),
    ],
)
def test_parts_of_the_small_restorer_that_do_not_fit_are_refused(overrides, words, tiny_stages):
    run = compose_run([*tiny_stages["waveform"], *overrides])
    with pytest.raises(UserError, match=words):
        build_recipe(run.model, run.data, 0)


def test_a_quiet_sample_weighs_as_much_as_a_loud_one(tiny_stages):
    recipe = build_recipe(compose_run(tiny_stages["waveform"]).model, DATA, 0)
    loud, quiet = batch(), batch()
    quiet.clean, quiet.damaged = 0.05 * quiet.clean, 0.05 * quiet.damaged
    losses = [next(recipe.passes(b, recipe.trained)).losses for b in (loud, quiet)]
    for name in losses[0]:
        assert losses[1][name].item() == pytest.approx(losses[0][name].item(), rel=1e-3), name


def test_the_small_restorer_learns_to_be_silent_where_the_target_is(tiny_stages):
    """Forty steps on noise alone take most of it away."""
    recipe = build_recipe(compose_run(tiny_stages["waveform"]).model, DATA, 0)
    optimizer = torch.optim.AdamW(recipe.trained["cleaner"].parameters(), lr=1e-2)
    noise = batch()
    noise.clean = torch.zeros_like(noise.clean)
    for _ in range(40):
        item = next(recipe.passes(noise, recipe.trained))
        optimizer.zero_grad()
        item.loss.backward()
        optimizer.step()
    restored = recipe.samples(noise)["restored"].waveform
    assert restored.square().mean() < 0.01 * noise.damaged[0].square().mean()
