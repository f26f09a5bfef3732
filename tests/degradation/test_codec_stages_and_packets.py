"""Codec stages report and count; packets are lost as often as asked."""

import numpy as np
import pytest

from open_miipher.audio import codec
from open_miipher.degradation import Context
from open_miipher.degradation.codecs import Mp3, Mp3Vbr, Opus, Vorbis
from open_miipher.degradation.packet_loss import PacketLoss


def test_every_bit_rate_is_drawn_and_reported(run):
    waveform = np.zeros(100, np.float32)
    stage = Mp3(Context(24000), Mp3.Config(bit_rates=[16.0, 64.0]))
    drawn = [run(stage, waveform, seed)[1].drawn for seed in range(12)]
    assert {entry["bit_rate"] for (entry,) in drawn} == {16.0, 64.0}
    assert {entry["name"] for (entry,) in drawn} == {"mp3"}


@pytest.mark.parametrize(
    ("stage", "name"), [(Mp3, "mp3"), (Mp3Vbr, "mp3_vbr"), (Vorbis, "vorbis"), (Opus, "opus")]
)
def test_a_codec_that_fails_is_noted(stage, name, run, monkeypatch):
    def broken(*_, **__):
        raise codec.CodecError("no encoder")

    broken.__name__ = name
    monkeypatch.setattr(codec, name, broken)
    waveform = np.ones(100, np.float32)
    damaged, trace = run(stage(Context(24000), stage.Config()), waveform)
    assert np.array_equal(damaged, waveform)
    assert trace.failures == [f"{name}: no encoder"]
    assert trace.drawn == []


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_packet_loss_loses_nine_percent_at_any_length(seconds, run):
    stage = PacketLoss(Context(1000), PacketLoss.Config())
    waveform = np.ones(round(1000 * seconds), np.float32)
    lost = [np.mean(run(stage, waveform, seed)[0] == 0) for seed in range(4000)]
    assert np.mean(lost) == pytest.approx(0.09, abs=0.015)


def test_packets_are_zeroed_in_stretches_of_the_asked_length(run):
    stage = PacketLoss(Context(1000), PacketLoss.Config(seconds=(0.02, 0.03), share=0.02))
    damaged, trace = run(stage, np.ones(20000, np.float32))
    edges = np.flatnonzero(np.diff(damaged == 0))
    assert set(np.unique(damaged)) == {0.0, 1.0}
    assert 19 <= np.median(edges[1::2] - edges[::2]) <= 31
    assert trace.drawn[0]["share"] == pytest.approx(float(np.mean(damaged == 0)))
