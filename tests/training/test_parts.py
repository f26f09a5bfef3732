"""The trainer's small parts: schedules, averages, metrics, keys."""

import json
import os

import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.distributed import contact
from open_miipher.recipes import ParameterGroup, Recipe
from open_miipher.training.config import EmaConfig, TrainerConfig
from open_miipher.training.console import Console
from open_miipher.training.ema import Ema
from open_miipher.training.metrics_log import MetricsLog
from open_miipher.training.optimization import (
    OptimizerConfig,
    apply_config,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)


def test_cosine_reaches_its_known_points():
    config = OptimizerConfig(lr=1.0, schedule_steps=110, warmup_steps=10, final_lr=0.2)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.6)
    assert learning_rate(config, 110) == pytest.approx(0.2)
    assert learning_rate(config, 10_000) == pytest.approx(0.2)


def test_constant_schedule_stays():
    config = OptimizerConfig(lr=0.5, schedule_steps=1, warmup_steps=2, schedule="constant")
    assert [learning_rate(config, s) for s in (0, 1, 99)] == [0.25, 0.5, 0.5]


def test_exponential_decay_has_the_same_factor_each_step():
    """Sidon's: 0.999996 a step, as its configuration writes it."""
    config = OptimizerConfig(
        lr=1e-4,
        schedule_steps=1_000_000,
        warmup_steps=0,
        schedule="exponential",
        final_lr=1.8316e-6,
    )
    for step in (0, 1, 1000, 999_999):
        assert learning_rate(config, step) == pytest.approx(1e-4 * 0.999996**step, rel=1e-4)
    assert learning_rate(config, 2_000_000) == pytest.approx(1.8316e-6)
    with pytest.raises(UserError, match="final_lr=0"):
        OptimizerConfig(lr=1.0, schedule_steps=1, schedule="exponential", final_lr=0.0)


def test_only_matrices_decay_and_configured_values_win():
    network = torch.nn.Linear(3, 2)
    network.alpha = torch.nn.Parameter(torch.ones(1, 4, 1))  # a snake's
    old = OptimizerConfig(lr=1.0, schedule_steps=1, weight_decay=0.1)
    groups = Recipe.parameter_groups(None, network)
    optimizer = build_optimizer(groups, old)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 2]
    new = OptimizerConfig(lr=1, schedule_steps=1, weight_decay=0.3, eps=1e-5)
    apply_config(optimizer, groups, new)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]
    assert {g["eps"] for g in optimizer.param_groups} == {1e-5}


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"schedule_steps": 0}])
def test_impossible_optimisers_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        OptimizerConfig(**{"lr": 1.0, "schedule_steps": 1, **bad})


def test_magnitudes_of_weight_norm_do_not_decay():
    network = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    groups = Recipe.parameter_groups(None, network)
    assert [(len(group.parameters), group.decays) for group in groups] == [(1, True), (2, False)]


def test_groups_have_their_own_learning_rates():
    slow, fast = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    groups = [ParameterGroup([slow], lr_scale=0.1), ParameterGroup([fast])]
    optimizer = build_optimizer(groups, OptimizerConfig(lr=1.0, schedule_steps=1))
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


def test_the_average_of_tied_weights_is_saved_under_both_names():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    network[1].weight = network[0].weight
    ema = Ema(network, decay=0.5)
    network[0].weight.data.fill_(7.0)
    saved = ema.over(network.state_dict())
    assert torch.equal(saved["0.weight"], saved["1.weight"])
    assert not (saved["0.weight"] == 7.0).any()


def test_average_follows_its_formula_and_can_be_applied():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    ema = Ema(network, decay=0.5)
    network.weight.data.fill_(1.0)
    ema.update(step=1)  # early: (1 + 1) / (10 + 1) of the old
    expected = 1 - 2 / 11
    assert ema.average["weight"].item() == pytest.approx(expected)
    for step in range(100, 102):
        ema.update(step)
    expected = 1 - (1 - expected) * 0.25
    with ema.applied():
        assert network.weight.item() == pytest.approx(expected)
    assert network.weight.item() == 1.0
    assert ema.average["weight"].item() == pytest.approx(expected)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path, 0)
    for step in (1, 2, 3):
        first.write(step, "train", {"loss": 0.1 + step})
    with open(path, "a") as file:
        file.write('{"step": 4, "spl')  # torn by a kill
    leftover = tmp_path / ".metrics.jsonl.4711.tmp"
    leftover.touch()
    second = MetricsLog(path, 2)
    assert not leftover.exists()
    second.write(3, "train", {"loss": 1 / 3})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] == 1 / 3


def test_a_full_disk_names_the_file_that_is_appended_to(tmp_path):
    metrics, log = tmp_path / "metrics.jsonl", tmp_path / "train.log"
    log.symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{log}: No space left on device"), contact():
        Console(log).line("step 1")
    written = MetricsLog(metrics, 0)
    with open("/dev/full", "w") as full:
        os.dup2(full.fileno(), written._file.fileno())
    with pytest.raises(UserError, match=f"{metrics}: No space left on device"), contact():
        written.write(1, "train", {"loss": 1.0})


def test_metrics_stay_json_when_a_norm_overflows(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", 0).write(1, "train", {"grad_norm": float("inf")})
    row = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(row, parse_constant=pytest.fail) == {
        "step": 1, "split": "train", "grad_norm": None
    }  # fmt: skip


def test_all_problems_of_the_keys_at_once():
    config = TrainerConfig(
        batch_size=10, max_steps=0, grad_accumulation=2, seed=2**63, ema=EmaConfig(decay=1.5)
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        config.check(num_ranks=2)
    for word in ("trainer.max_steps", "trainer.batch_size=10", "use 8", "ema.decay", "below 2^63"):
        assert word in str(caught.value)


def test_a_restarted_cosine_falls_over_twice_as_many_steps_each_time() -> None:
    config = OptimizerConfig(
        lr=1.0, schedule_steps=100, warmup_steps=0, final_lr=0.2, schedule="cosine_restarts"
    )
    at = {step: learning_rate(config, step) for step in (0, 50, 99, 100, 200, 299, 300, 500)}
    assert at[0] == at[100] == at[300] == 1.0
    assert at[50] == at[200] == at[500] == pytest.approx(0.6)
    assert 0.2 < at[299] < at[99] < 0.201
