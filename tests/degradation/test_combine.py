"""Chain, Maybe and Choice, and building them from the configuration."""

import numpy as np
import pytest

from open_miipher.base.errors import UserError
from open_miipher.degradation import (
    Chain,
    Choice,
    Context,
    DegradationConfig,
    Maybe,
    Stage,
    build_degradation,
)

WAVEFORM = np.ones(4, np.float32)


class Add(Stage):
    def __init__(self, amount: float) -> None:
        self.amount = amount

    def apply(self, waveform, rng, trace):
        trace.drawn.append({"name": "add", "amount": self.amount})
        return waveform + np.float32(self.amount)


class InPlace(Stage):
    def apply(self, waveform, rng, trace):
        waveform += 1
        return waveform


class Shorter(Stage):
    def apply(self, waveform, rng, trace):
        return waveform[1:].copy()


def amounts(stage, run, num_draws):
    return [tuple(d["amount"] for d in run(stage, WAVEFORM, k)[1].drawn) for k in range(num_draws)]


def test_chain_keeps_the_order(run):
    damaged, trace = run(Chain([Add(1), Add(2), Add(3)]), WAVEFORM)
    assert [d["amount"] for d in trace.drawn] == [1, 2, 3]
    assert np.array_equal(damaged, WAVEFORM + 6)


def test_empty_chain_returns_a_copy(run):
    damaged, _ = run(Chain([]), WAVEFORM)
    assert np.array_equal(damaged, WAVEFORM)
    assert not np.may_share_memory(damaged, WAVEFORM)


def test_maybe_hits_its_probability(run):
    hits = [len(a) for a in amounts(Maybe(Add(1), 0.3), run, 2000)]
    assert np.mean(hits) == pytest.approx(0.3, abs=0.04)


def test_choice_takes_one_by_weight(run):
    drawn = amounts(Choice([Add(1), Add(2), Add(3)], [1, 3, 0]), run, 2000)
    assert all(len(a) == 1 for a in drawn)
    assert np.mean([a == (2,) for a in drawn]) == pytest.approx(0.75, abs=0.04)
    assert (3,) not in drawn


def test_chain_leaves_out_all_alike_what_is_too_many(run):
    drawn = amounts(Chain([Maybe(Add(k), 0.9) for k in range(5)], max_stages=2), run, 1000)
    assert max(len(a) for a in drawn) == 2
    assert all(list(a) == sorted(a) for a in drawn)
    shares = np.bincount([k for a in drawn for k in a]) / len(drawn)
    assert np.allclose(shares, 0.4, atol=0.06)


@pytest.mark.parametrize("stage", [InPlace(), Shorter()])
def test_a_stage_that_breaks_the_contract_is_caught(stage, run):
    with pytest.raises(ValueError, match=type(stage).__name__):
        run(stage, WAVEFORM.copy())


def test_groups_nest(run):
    telephone = {
        "name": "chain",
        "stages": {
            "band": {"name": "band_limit", "rates": [8000]},
            "law": {
                "name": "choice",
                "stages": {"a": {"name": "a_law", "weight": 2}, "mu": {"name": "mu_law"}},
            },
        },
    }
    stage = build_degradation(DegradationConfig({"telephone": telephone}), Context(24000))
    names = [[d["name"] for d in run(stage, WAVEFORM, k)[1].drawn] for k in range(60)]
    assert {tuple(n) for n in names} == {("band_limit", "a_law"), ("band_limit", "mu_law")}
    assert sum(n[1] == "a_law" for n in names) > 30


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "nois"}, "degradation.stages.x.name=nois is unknown"),
        ({}, "degradation.stages.x needs a name"),
        (3, "degradation.stages.x=3 must be a stage"),
        ({"name": "noise", "snr": [1, 2]}, "unknown key degradation.stages.x.snr"),
        ({"name": "noise", "snr_db": [30.0, 5.0]}, "snr_db"),
        ({"name": "noise", "probability": 1.5}, "degradation.stages.x.probability=1.5"),
        ({"name": "noise", "probability": "half"}, "degradation.stages.x.probability"),
        ({"name": "noise", "weight": 2}, "unknown key degradation.stages.x.weight"),
        ({"name": "reverb", "target": "early"}, "degradation.stages.x.target"),
        ({"name": "low_pass", "cutoff": [2000.0, 12000.0]}, "low_pass cutoff"),
        ({"name": "band_limit", "rates": [24000]}, "none below 24000"),
        ({"name": "mp3", "bit_rates": []}, "mp3 bit_rates"),
        ({"name": "packet_loss", "share": 1.0}, "packet_loss share"),
        ({"name": "choice", "stages": {}}, "degradation.stages.x.stages is empty"),
        ({"name": "choice"}, "missing key degradation.stages.x.stages"),
        (
            {"name": "choice", "stages": {"a": {"name": "a_law", "weight": 0}}},
            "one weight must be above 0",
        ),
        ({"name": "chain", "stages": {"a": {"name": "b"}}}, "x.stages.a.name=b is unknown"),
    ],
)
def test_wrong_configuration_names_the_key(spec, message):
    with pytest.raises(UserError) as caught:
        build_degradation(DegradationConfig({"x": spec}), Context(24000), "degradation")
    assert message in str(caught.value)
