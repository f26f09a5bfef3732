"""What every kind of batch does, and what pairs do besides."""

import numpy as np
import torch

from open_miipher.data import PairBatch, PairSample


def sample(length: int, dtype: type = np.int16) -> PairSample:
    clean = np.full(length, 16384 if dtype is np.int16 else 0.5, dtype)
    return PairSample(clean, clean // 2 if dtype is np.int16 else clean / 2, "x", 0.0, [], ["why"])


def test_pairs_are_joined_with_zeros_and_travel_as_integers():
    batch = PairBatch.join([(7, sample(3)), (9, sample(5))], None)
    assert batch.clean.dtype == batch.damaged.dtype == torch.int16
    assert batch.clean.tolist() == [[16384] * 3 + [0, 0], [16384] * 5]
    assert (batch.positions.tolist(), batch.lengths.tolist()) == ([7, 9], [3, 5])
    assert (batch.names, batch.failures) == (["x", "x"], ["why", "why"])
    there = batch.to("cpu")
    assert there.clean[1].tolist() == [0.5] * 5
    assert there.damaged.dtype == torch.float32
    assert PairBatch.join([(0, sample(3))], 8).clean.shape == (1, 8)


def test_one_waveform_in_floats_makes_all_of_them_floats():
    batch = PairBatch.join([(0, sample(3)), (1, sample(3, np.float32))], None)
    assert batch.clean.dtype == torch.float32
    assert (batch.clean == 0.5).all()


def test_positions_stay_where_noise_is_named():
    """`meta` is a device of its own: what is moved shows."""
    batch = PairBatch.join([(7, sample(3))], None).to("meta")
    assert batch.positions.device.type == "cpu"
    assert {t.device.type for t in (batch.clean, batch.damaged, batch.lengths)} == {"meta"}


def test_positions_are_pinned_too_and_stay_behind(monkeypatch):
    """From ordinary memory their copy for a step's noise would wait for the device."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    given = PairBatch.join([(4, sample(3)), (5, sample(3))], None)
    pinned = given.pin_memory()
    assert pinned.positions.tolist() == [5, 6]
    assert pinned.to("meta").positions.device.type == "cpu"
