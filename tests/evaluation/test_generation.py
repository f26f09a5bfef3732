"""Scores of generated clips: on distributions with known answers, and by a classifier of tones."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import soundfile

from open_miipher.base.errors import UserError
from open_miipher.evaluation.generation import (
    SCORES,
    Judge,
    Judged,
    Moments,
    Reference,
    am_score,
    different_bins,
    frechet_distance,
    inception_score,
    modified_inception_score,
    score,
)
from open_miipher.index import Entry, write_index

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
PITCHES = {"high": 2000.0, "low": 300.0, "middle": 900.0}


def with_moments(mean, covariance, count=200, seed=0):
    """Samples whose mean and covariance are exactly these."""
    drawn = np.random.default_rng(seed).standard_normal((count, len(mean)))
    drawn -= drawn.mean(0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return np.array(mean) + white @ np.linalg.cholesky(np.array(covariance)).T


def distance(one, other):
    return frechet_distance(Moments.of(one), Moments.of(other))


def logs(rows):
    return np.log(np.array(rows, dtype=np.float64))


# The formulas.


def test_the_frechet_distance_of_two_gaussians():
    one = with_moments([0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])
    other = with_moments([3.0, 4.0], [[1.0, 0.0], [0.0, 9.0]], seed=1)
    # ‖μ₁ - μ₂‖² = 25; diagonal covariances: Σ (σ₁ - σ₂)² = (2 - 1)² + (1 - 3)²
    assert distance(one, other) == pytest.approx(30.0, rel=1e-9)
    assert distance(one, one) == pytest.approx(0.0, abs=1e-9)


def test_the_frechet_distance_where_the_covariances_do_not_commute():
    rng = np.random.default_rng(0)
    first, second = (x @ x.T + np.eye(5) for x in rng.standard_normal((2, 5, 5)))
    mean = np.arange(5.0)
    expected = mean @ mean + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)
    one, other = with_moments(np.zeros(5), first), with_moments(mean, second, seed=1)
    assert distance(one, other) == pytest.approx(expected, rel=1e-8)
    assert distance(other, one) == pytest.approx(expected, rel=1e-8)


def test_the_frechet_distance_of_fewer_samples_than_features_is_finite():
    few = np.random.default_rng(0).standard_normal((10, 64))
    assert distance(few, few) == pytest.approx(0.0, abs=1e-5)
    assert distance(few, few + 1.0) == pytest.approx(64.0, abs=1e-5)


def test_the_inception_scores_of_sure_and_of_unsure_labels():
    sure = np.full((40, 4), 1e-12) + np.eye(4)[np.arange(40) % 4]
    assert inception_score(logs(sure)) == pytest.approx(4.0, rel=1e-6)
    assert inception_score(logs(sure[::4])) == pytest.approx(1.0, rel=1e-6)  # one label alone
    assert inception_score(logs(np.full((40, 4), 0.25))) == pytest.approx(1.0)
    two = logs([[0.9, 0.1], [0.1, 0.9]])
    to_the_mean = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert inception_score(two) == pytest.approx(np.exp(to_the_mean))
    # of four pairs, two are of a clip with itself
    assert modified_inception_score(two) == pytest.approx(np.exp(0.8 * np.log(9) / 2))
    assert modified_inception_score(two[:1]) == pytest.approx(1.0)


def test_the_am_score_is_the_missing_labels_and_the_doubt():
    even = np.full(4, 0.25)
    sure = np.full((40, 4), 1e-12) + np.eye(4)[np.arange(40) % 4]
    assert am_score(logs(sure), even) == pytest.approx(0.0, abs=1e-6)
    assert am_score(logs(np.full((9, 4), 0.25)), even) == pytest.approx(np.log(4))
    doubtful = np.array([0.7, 0.1, 0.1, 0.1])
    missing = (even * np.log(even / doubtful)).sum()
    entropy = -(doubtful * np.log(doubtful)).sum()
    assert am_score(logs([doubtful] * 5), even) == pytest.approx(missing + entropy)
    # p* is what the real clips have
    skewed = np.array([0.5, 0.5, 0.0, 0.0])
    assert am_score(logs(sure[(np.arange(40) % 4) < 2]), skewed) == pytest.approx(0.0, abs=1e-6)


def test_bins_differ_where_the_two_proportion_test_says_so():
    # z = (.6 - .4) / √(.5 · .5 · .02) = 2.83, and 1.41 for .55 and .45
    assert different_bins(np.array([60, 40]), np.array([40, 60])) == 1.0
    assert different_bins(np.array([55, 45]), np.array([45, 55])) == 0.0
    assert different_bins(np.array([0, 50, 50]), np.array([50, 0, 50])) == pytest.approx(2 / 3)
    empty = np.array([0, 100])
    assert different_bins(empty, empty) == 0.0
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(1000, np.full(50, 0.02), size=(100, 2))
    by_chance = np.mean([different_bins(one, other) for one, other in drawn])
    assert by_chance == pytest.approx(0.05, abs=0.01)


# All of them, on made-up features.


def made_up(modes, count=600, seed=0):
    """Features around the corners of a cube, and labels by corner, nearly sure."""
    rng = np.random.default_rng(seed)
    own = rng.choice(modes, size=count)
    features = np.eye(8)[own] * 5 + rng.standard_normal((count, 8))
    probabilities = np.full((count, 8), 0.01) + 0.92 * np.eye(8)[own]
    return Judged(np.log(probabilities), features), own


def test_lost_modes_show_in_every_score():
    reference = Reference(*made_up(range(8)))
    assert reference.num_bins == 30
    whole, half = (score(made_up(modes, seed=1)[0], reference) for modes in (range(8), range(4)))
    assert set(whole) == set(SCORES)
    assert whole["ndb"]["mean"] < 0.2 < half["ndb"]["mean"]
    for name, better in {"fid": -1, "is": 1, "mis": 1, "am": -1, "ndb": -1}.items():
        for values in (whole[name], half[name]):
            assert 0 <= values["low"] <= values["mean"] <= values["high"]
            assert values["n"] == 600
        assert better * whole[name]["mean"] > better * half[name]["mean"], name
    assert score(made_up(range(8), seed=1)[0], reference) == whole


def test_the_intervals_are_as_wide_as_the_spread_of_other_draws():
    reference = Reference(*made_up(range(8), count=4000))
    draws = [score(made_up(range(8), 200, seed)[0], reference) for seed in range(1, 7)]
    for name in ("fid", "is"):
        between = np.std([draw[name]["mean"] for draw in draws])
        widths = np.mean([draw[name]["high"] - draw[name]["low"] for draw in draws])
        assert 0.3 < widths / (2 * 1.96 * between) < 3


@pytest.mark.parametrize("outlier", [0.0, 1e4])
@pytest.mark.parametrize("labels", [1, 2, 8])
def test_an_interval_holds_its_score_and_ends_where_scores_end(labels, outlier):
    """Also of clips that are all alike, but for one: its draws are skewed."""
    judged, own = made_up(range(8))
    reference = Reference(judged, own)
    features = np.zeros((40, 8)) + np.linspace(0, 1e-3, 40)[:, None]
    features[0] += outlier
    sure = np.full((40, 8), 1e-9) + np.eye(8)[np.arange(40) % labels]
    scores = score(Judged(np.log(sure / sure.sum(1, keepdims=True)), features), reference)
    least = {"fid": 0, "is": 1, "mis": 1, "am": 0, "ndb": 0}
    for name, values in scores.items():
        most = {"is": 8, "ndb": 1}.get(name, np.inf)
        assert least[name] <= values["low"] <= values["mean"] <= values["high"] <= most, name


# A classifier of three tones, from training to summary.json.


def tones(root: Path, count: int, seed: int, pitches=PITCHES, folders=True) -> Path:
    """Clips of a quarter second; their level and phase vary."""
    rng = np.random.default_rng(seed)
    entries = []
    for name, pitch in pitches.items():
        for number in range(count):
            time = np.arange(4000) / RATE + rng.uniform()
            tone = rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * time)
            path = root / (f"{name}/{number}.wav" if folders else f"{name}-{number}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone, RATE)
            entries.append(Entry(path.relative_to(root).as_posix(), RATE, len(tone), 1))
    write_index(root, entries)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with train/, test/ and a trained classifier in run/."""
    from open_miipher.config import compose_run
    from open_miipher.distributed import start
    from open_miipher.training import prepare

    root = tmp_path_factory.mktemp("tones")
    overrides = [
        *("model=digit_classifier", "data=labelled_audio", "data.crop_seconds=0.25"),
        f"data.train.dir_list=[{tones(root / 'train', 20, 0)}]",
        f"data.test.dir_list=[{tones(root / 'test', 8, 1)}]",
        *("model.network.channels=[8]", "model.network.features=8", "model.network.mel.n_mels=16"),
        *("optimizer.lr=0.02", "optimizer.classifier.warmup_steps=1", "trainer.batch_size=16"),
        *("trainer.max_steps=60", "trainer.device=cpu", "trainer.log_every=20"),
        *("trainer.validate_every=30", f"trainer.output_dir={root / 'run'}"),
    ]
    assert prepare(compose_run(overrides), start("cpu")).run()
    return root


def test_the_classifier_learns_tones_and_judges_them(run, tmp_path):
    judge = Judge(run / "run", None, None)
    good = sorted(tones(tmp_path / "good", 8, 2, folders=False).glob("*.wav"))
    summary, problem = judge.compare(good)
    assert problem == ""
    assert set(summary) == {"accuracy", *SCORES, *(f"test_{name}" for name in SCORES)}
    assert summary["accuracy"]["mean"] >= 0.9
    assert summary["accuracy"]["n"] == summary["is"]["n"] == 24
    assert summary["is"]["mean"] > 2.5
    one = {"low": 300.0}
    poor = sorted(tones(tmp_path / "poor", 24, 3, one, folders=False).glob("*.wav"))
    lost, _ = judge.compare(poor)
    assert lost["is"]["mean"] < 1.2
    assert lost["fid"]["mean"] > 3 * summary["fid"]["mean"]
    assert lost["test_fid"] == summary["test_fid"]


def test_clips_of_other_rates_and_lengths_are_judged_too(run, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(48000) / 48000)
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", tone[: 6000 + 5000 * number], 48000)
    summary, problem = Judge(run / "run", None, None).compare(sorted(tmp_path.glob("*.wav")))
    assert problem == ""
    assert summary["is"]["mean"] < 1.2


def test_a_classifier_that_is_often_wrong_gives_no_scores(run, tmp_path):
    swapped = {"high": 300.0, "low": 2000.0, "middle": 900.0}
    wrong = tones(tmp_path / "wrong", 8, 4, swapped)
    judge = Judge(run / "run", None, wrong)
    summary, problem = judge.compare(sorted(wrong.glob("*/*.wav")))
    assert set(summary) == {"accuracy"}
    assert re.match(r"the classifier labels 3\d\.\d% of the held-out clips right, and", problem)


def test_too_few_clips_give_no_scores(run):
    clips = sorted((run / "test").glob("*/*.wav"))[:8]
    summary, problem = Judge(run / "run", None, None).compare(clips)
    assert set(summary) == {"accuracy"}
    assert problem.startswith("there are 8 generated and 24 held-out clips, and the scores take")


def test_what_cannot_judge_is_refused(run, tmp_path):
    others = tones(tmp_path / "others", 2, 5, {"high": 2000.0, "low": 300.0})
    (tmp_path / "bare").mkdir()
    cases = [
        ((run / "run", others, None), "--reference-dir .*others has the folders high, low, but"),
        ((run / "run", None, others), "--test-dir .*others has the folders high, low, but"),
        ((run / "run", None, tmp_path / "bare"), "--test-dir: .*bare has no metadata.csv"),
        ((run / "run", None, run / "train"), "60 held-out clips are among the training clips"),
        ((tmp_path / "bare", None, None), "holds no complete checkpoint"),
        ((ROOT / "pretrained/default", None, None), "holds no classifier but encoder"),
    ]
    for arguments, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            Judge(*arguments)
        assert "\n" not in str(caught.value)


def test_the_command_writes_the_scores_beside_the_other_measures(
    run, monkeypatch, capsys, tmp_path
):
    generated = tones(tmp_path / "generated", 6, 6, folders=False)
    words = ["--restored-dir", generated, "--output-dir", tmp_path / "out", "--num-workers", 1]
    words += ["--measures", "level"]

    def command(*more) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, [*words, *more])])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "src/evaluate.py"), run_name="__main__")
        return end.value.code

    assert command("--classifier", run / "run") == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert set(summary) >= {"level_db", "accuracy", *SCORES, "test_fid"}
    assert "dnsmos_overall" not in summary
    assert summary["fid"]["n"] == 18
    assert re.search(r"^score +generated +held-out$", said, re.M)
    assert re.search(r"^accuracy +- +1\.000 ± 0\.000$", said, re.M)
    assert command("--test-dir", run) == 2
    assert command("--classifier", run / "run", "--input-dir", generated) == 2
