"""What every stage promises: new array, length, alignment, determinism, awkward input."""

import json

import numpy as np
import pytest
from scipy.signal import correlate

from open_miipher.degradation import STAGES, Chain, Context, DegradationConfig, build_degradation

DAMAGES = [name for name in STAGES if name != "noise_alone"]  # which leaves nothing of the speech
CHAIN = DegradationConfig({name: {"name": name} for name in DAMAGES}, max_stages=len(DAMAGES))


def build(name: str, sample_rate: int = 24000, **fields) -> Chain:
    return build_degradation(
        DegradationConfig({name: {"name": name, **fields}}), Context(sample_rate)
    )


@pytest.mark.parametrize("sample_rate", [16000, 24000, 48000])
@pytest.mark.parametrize("name", DAMAGES)
def test_length_alignment_and_purity(name, sample_rate, run, speech_like):
    waveform = speech_like(sample_rate)
    before = waveform.copy()
    # so that the direct path is the greatest, and something is lost
    fields = {
        "reverb": {"direct_to_reverb_db": [20.0, 20.0]},
        "packet_loss": {"share": 0.3},
    }.get(name, {})
    damaged, trace = run(build(name, sample_rate, **fields), waveform, seed=1)
    assert np.array_equal(waveform, before)
    assert damaged.shape == waveform.shape
    assert damaged.dtype == np.float32
    assert not np.array_equal(damaged, waveform)
    lag = int(np.argmax(correlate(damaged, waveform, method="fft"))) - (len(waveform) - 1)
    assert abs(lag) <= (1 if name == "opus" else 0)
    assert [entry["name"] for entry in trace.drawn] == [name]
    assert trace.failures == []
    assert trace.target is waveform
    json.dumps(trace.drawn)


@pytest.mark.parametrize("name", STAGES)
def test_equal_for_equal_seeds_and_only_those(name, run, speech_like):
    waveform = speech_like(24000)
    first, first_trace = run(build(name), waveform, seed=3)
    second, second_trace = run(build(name), waveform, seed=3)
    assert np.array_equal(first, second)
    assert first_trace.drawn == second_trace.drawn
    others = [run(build(name), waveform, seed=seed)[1].drawn for seed in range(4, 12)]
    if name not in ("a_law", "mu_law"):  # they draw nothing
        assert any(other != first_trace.drawn for other in others)


@pytest.mark.parametrize(
    "waveform",
    [
        pytest.param(np.zeros(5000, np.float32), id="silence"),
        pytest.param(np.zeros(1, np.float32), id="one-silent-sample"),
        pytest.param(np.full(1, 0.5, np.float32), id="one-sample"),
        pytest.param(np.full(7, -0.5, np.float32), id="seven-samples"),
        pytest.param(np.full(5000, 1e-30, np.float32), id="vanishing"),
    ],
)
@pytest.mark.parametrize("name", [*STAGES, "all"])
def test_awkward_waveforms(name, waveform, run):
    stage = build_degradation(CHAIN, Context(24000)) if name == "all" else build(name)
    for seed in range(3):
        damaged, trace = run(stage, waveform, seed)
        assert damaged.shape == waveform.shape
        assert np.isfinite(damaged).all()
        assert trace.failures == []


@pytest.mark.parametrize("name", [*DAMAGES, "all"])
def test_above_full_scale_survives(name, run, speech_like):
    waveform = 8 * speech_like(24000)
    stage = build_degradation(CHAIN, Context(24000)) if name == "all" else build(name)
    damaged, _ = run(stage, waveform)
    assert np.abs(damaged).max() > 1.2
    assert np.corrcoef(waveform, damaged)[0, 1] > 0.25  # all stages, and packets lost, at once
