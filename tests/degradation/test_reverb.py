"""Rooms: alignment, level, targets."""

import numpy as np
import pytest

from open_miipher.degradation import Context, Trace
from open_miipher.degradation.reverb import Reverb, decaying_noise, direct_path


def reverb(response: np.ndarray, **fields) -> Reverb:
    context = Context(24000, impulse_responses=lambda rng: (response, "room"))
    return Reverb(context, Reverb.Config(**fields))


def room(delay: int, direct: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tail = 0.15 * rng.standard_normal(6000) * np.exp(-np.arange(6000) / 1500)
    response = np.concatenate([np.zeros(delay), [direct], tail])
    return response.astype(np.float32)


def test_a_pure_delay_does_nothing(run, speech_like):
    response = np.zeros(500, np.float32)
    response[333] = -0.2
    waveform = speech_like(24000)
    damaged, _ = run(reverb(response), waveform)
    assert np.allclose(damaged, -waveform, atol=1e-6)


def test_known_convolution(run):
    waveform = np.zeros(8, np.float32)
    waveform[0] = 1.0
    damaged, _ = run(reverb(np.array([0, 0, 1.0, 0.5, 0, 0.25], np.float32)), waveform)
    expected = np.array([1, 0.5, 0, 0.25, 0, 0, 0, 0])
    assert np.allclose(damaged, expected / np.sqrt(np.sum(expected**2)), atol=1e-6)


@pytest.mark.parametrize("delay", [0, 40, 700])
def test_the_delay_is_taken_out_and_the_power_kept(delay, run, speech_like):
    waveform = speech_like(24000)
    undelayed, _ = run(reverb(room(0)), waveform)
    damaged, trace = run(reverb(room(delay)), waveform)
    assert np.allclose(damaged, undelayed, atol=1e-5)
    assert np.mean(damaged**2.0) == pytest.approx(np.mean(waveform**2.0), rel=1e-3)
    assert trace.drawn == [{"name": "reverb", "source": "room"}]


def test_the_level_of_the_response_does_not_matter(run, speech_like):
    waveform = speech_like(24000)
    loud, _ = run(reverb(30 * room(10)), waveform)
    quiet, _ = run(reverb(room(10)), waveform)
    assert np.allclose(loud, quiet, atol=1e-5)


def test_the_direct_target_is_the_direct_path_as_loud_as_before(run, speech_like):
    waveform = speech_like(24000)
    response = np.zeros(2000, np.float32)
    response[100], response[1000] = 0.5, 0.4  # an echo 37 ms later
    damaged, trace = run(reverb(response, target="direct"), waveform)
    assert np.allclose(trace.target, waveform, atol=1e-5)
    assert trace.target.dtype == damaged.dtype == np.float32
    assert np.mean(damaged**2) == pytest.approx(np.mean(waveform**2), rel=1e-4)
    with_echo = waveform + 0.8 * np.pad(waveform, (900, 0))[: len(waveform)]
    assert np.corrcoef(damaged, with_echo)[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_a_silent_target_stays_silent(run, speech_like):
    waveform = speech_like(24000)
    trace = Trace(np.zeros_like(waveform))
    reverb(room(10), target="direct")(waveform, np.random.default_rng(0), trace)
    assert not trace.target.any()


def test_the_dry_target_is_left_alone(run, speech_like):
    waveform = speech_like(24000)
    _, trace = run(reverb(room(10)), waveform)
    assert trace.target is waveform


def test_the_direct_path_is_the_first_high_peak():
    response = np.zeros(1000, np.float32)
    response[200:203] = 0.4, 0.7, 0.3
    response[400] = 1.0  # two reflections at once
    assert direct_path(response, 24000) == 201
    assert direct_path(np.array([0.0, -3.0], np.float32), 24000) == 1


def test_a_silent_response_is_a_failure(run, speech_like):
    waveform = speech_like(24000)
    damaged, trace = run(reverb(np.zeros(10, np.float32)), waveform)
    assert np.array_equal(damaged, waveform)
    assert trace.failures == ["reverb: room is silent"]


def test_generated_rooms_decay_as_asked():
    rng = np.random.default_rng(0)
    response = decaying_noise(rng, 24000, rt60=0.5, ratio_db=6.0).astype(np.float64)
    assert len(response) == 12001
    assert response[0] ** 2 / np.sum(response[1:] ** 2) == pytest.approx(10**0.6, rel=1e-3)
    decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1])
    assert decay[0] - decay[6000] == pytest.approx(30, abs=2)


def test_the_direct_target_may_leave_out_early_reflections(run, speech_like):
    waveform = speech_like(24000)
    response = np.zeros(2000, np.float32)
    response[100], response[140] = 0.5, 0.4  # 1.7 ms later
    _, wide = run(reverb(response, target="direct"), waveform)
    _, narrow = run(reverb(response, target="direct", direct_seconds=0.001), waveform)
    assert np.allclose(narrow.target, waveform, atol=1e-5)
    with_echo = waveform + 0.8 * np.pad(waveform, (40, 0))[: len(waveform)]
    assert np.corrcoef(wide.target, with_echo)[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert np.mean(wide.target**2) == pytest.approx(np.mean(waveform**2), rel=1e-4)
