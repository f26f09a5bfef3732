"""The classifier of clips: how clips are changed, what a step is, what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import waits

from open_miipher.base.errors import UserError
from open_miipher.classifiers import CLASSIFIERS
from open_miipher.data import LabelledBatch
from open_miipher.recipes.classifier import (
    Classifier,
    ClassifierConfig,
    ClipAugmentConfig,
    changed,
)

RATE = 16000
NOTHING = {"shift_seconds": 0.0, "speed": 0.0, "gain_db": (0.0, 0.0), "snr_db": (200.0, 200.0)}


def augmented(waveform: torch.Tensor, seed: int = 0, first: int = 0, **changes) -> torch.Tensor:
    positions = torch.arange(first, first + len(waveform))
    return changed(waveform, positions, seed, RATE, ClipAugmentConfig(**(NOTHING | changes)))


def tone(pitch: float = 1000.0, num_samples: int = RATE) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(num_samples) / RATE)[None]


def batch(num_samples: int = 8000) -> LabelledBatch:
    waveform = 0.1 * torch.randn(4, num_samples, generator=torch.Generator().manual_seed(0))
    lengths, labels = torch.full((4,), num_samples), torch.tensor([0, 1, 2, 0])
    return LabelledBatch(torch.arange(4), list("abcd"), [], waveform, lengths, None, labels)


def recipe(rate: int = RATE, crop_seconds: float = 0.5, **network) -> Classifier:
    torch.manual_seed(0)
    data = SimpleNamespace(sample_rate=rate, crop_seconds=crop_seconds, labels=("a", "b", "c"))
    spec = {"name": "convolutional", "channels": [8], "features": 16} | network
    return Classifier(data, 0, ClassifierConfig(spec))


def test_without_ranges_clips_stay_as_they_are():
    clips = torch.cat([tone(), tone(440.0)])
    torch.testing.assert_close(augmented(clips), clips, atol=1e-6, rtol=0)


def test_clips_move_to_either_side_and_leave_zeros():
    pulse = torch.zeros(100, RATE)
    pulse[:, 8000] = 1.0
    moved = augmented(pulse, shift_seconds=0.1)
    centre = (moved * torch.arange(RATE)).sum(1) / moved.sum(1)
    assert -1600 <= (centre - 8000).min() < -1300
    assert 1300 < (centre - 8000).max() <= 1600
    ones = augmented(torch.ones(50, RATE), shift_seconds=0.1)
    zeros = (ones[:, :1600].abs() < 1e-6).sum(1), (ones[:, -1600:].abs() < 1e-6).sum(1)
    assert min(side.max() for side in zeros) > 1300
    assert ((zeros[0] == 0) | (zeros[1] == 0)).all()
    between = (ones > 1e-6) & (ones < 1 - 1e-6)
    assert between.sum(1).max() <= 1  # the sample at the edge


def test_speed_changes_the_pitch():
    clips = augmented(tone().expand(30, -1), speed=0.1)
    peaks = torch.fft.rfft(clips * torch.hann_window(RATE)).abs().argmax(1)
    assert 900 <= peaks.min() < 930
    assert 1070 < peaks.max() <= 1100


def test_gain_and_noise_are_what_was_drawn():
    louder = augmented(tone(), gain_db=(6.0, 6.0))
    torch.testing.assert_close(louder, tone() * 10 ** (6 / 20), atol=1e-4, rtol=0)
    noise = augmented(tone(), snr_db=(20.0, 20.0)) - tone()
    ratio = 10 * torch.log10(tone().square().mean() / noise.square().mean())
    assert float(ratio) == pytest.approx(20.0, abs=0.2)
    assert not augmented(torch.zeros(1, 100), snr_db=(20.0, 20.0)).any()


def test_a_change_depends_on_seed_and_position_alone():
    clips = tone().expand(4, -1)
    every = {"shift_seconds": 0.1, "speed": 0.1, "gain_db": (-6.0, 6.0), "snr_db": (10.0, 30.0)}
    whole = augmented(clips, **every)
    assert torch.equal(augmented(clips[:2], first=2, **every), whole[2:])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(augmented(clips, seed=1, **every), whole)


def test_the_loss_is_a_mean_over_clips_and_every_parameter_learns():
    learner = recipe(dropout=0.0)
    [step] = learner.passes(batch(), learner.trained)
    step.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in learner.classifier.parameters())
    whole = batch()
    alone = []
    for row in range(4):
        rows = slice(row, row + 1)
        one = LabelledBatch(
            *(whole.positions[rows], whole.names[rows], [], whole.waveform[rows]),
            *(whole.lengths[rows], None, whole.label[rows]),
        )
        alone.append(float(next(learner.passes(one, learner.trained)).loss.detach()))
    assert float(step.loss.detach()) == pytest.approx(np.mean(alone), rel=1e-5)


def test_validation_counts_what_is_right():
    learner = recipe()
    learner.classifier.eval()
    torch.nn.init.zeros_(learner.classifier.head.weight)
    learner.classifier.head.bias.data = torch.tensor([0.0, 5.0, 0.0])  # always b
    one = batch()
    one.waveform, one.label = one.waveform[:1], one.label[1:2]
    with torch.no_grad():
        right = learner.validate(one)
    assert (right["error_rate"], right["accuracy"]) == (0.0, 1.0)
    one.label = torch.tensor([2])
    with torch.no_grad():
        wrong = learner.validate(one)
    assert (wrong["error_rate"], wrong["accuracy"]) == (1.0, 0.0)
    assert wrong["loss"] == pytest.approx(np.log(2 + np.exp(5)))
    assert learner.score in wrong


def test_the_network_is_built_again_from_its_blueprint():
    learner = recipe()
    built = learner.blueprints["classifier"].build({}, "classifier")
    assert isinstance(built, CLASSIFIERS["convolutional"])
    assert (built.labels, built.num_samples) == (("a", "b", "c"), 8000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": 128}, "features=128 must be a multiple of 8 and at most 64"),
        ({"channels": []}, "channels must be multiples of 8, at least one"),
        ({"channels": [8] * 7}, "mel.n_mels is too small for so many blocks"),
        ({"rate": 22050}, "model.network.mel.sample_rate=16000 is not data.sample_rate=22050"),
        ({"crop_seconds": 0.01}, "clips of 160 samples are too short"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        recipe(**changes)


def test_ranges_that_make_no_sense_are_refused():
    data = SimpleNamespace(sample_rate=RATE, crop_seconds=0.5, labels=("a", "b"))
    wrong = ClipAugmentConfig(speed=0.9, gain_db=(3.0, -3.0))
    with pytest.raises(UserError) as caught:
        Classifier(data, 0, ClassifierConfig({"name": "convolutional"}, wrong))
    for key in ("model.augment.speed", "model.augment.gain_db"):
        assert key in str(caught.value)


def test_nothing_in_a_pass_waits_for_the_device():
    assert not waits.of_passes(recipe(), batch)
