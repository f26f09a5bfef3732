"""A whole chain of Sidon's parts, tiny and random, by a file's statistics and by its chunks'."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import ENCODERS
from open_miipher.restoration import Chain, RestoreOptions, Restorer, Source
from open_miipher.restoration.streams import ArraySink
from open_miipher.vocoders import VOCODERS

sys.path.insert(0, str(Path(__file__).parent))
import sidon

RATE = 16000
CHUNKS = {"chunk_seconds": 10.0, "overlap_seconds": 5.0, "level": "none"}

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    base = sidon.write_base(tmp_path_factory.mktemp("w2v"))
    encoder = build(ENCODERS, {"name": "transformers", "source": str(base), "layer": 2})
    cleaner = build(CLEANERS, {"name": "lora", "rank": 4}, encoder)
    torch.manual_seed(0)
    spec = {"name": "dac", "channels": 32, "weight_norm": False}
    vocoder = build(VOCODERS, spec, encoder.width, encoder.frame_rate)
    for name, parameter in vocoder.named_parameters():
        if name.endswith("weight"):  # as they begin, the features are hardly heard
            torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5)
    return Chain(cleaner, vocoder)


def moody(seconds: float, seed: int = 0) -> np.ndarray:
    """Coloured noise whose level and tilt change every six seconds, with pauses."""
    rng = np.random.default_rng(seed)
    pieces = []
    for number in range(round(seconds / 6)):
        white = rng.standard_normal(6 * RATE)
        tilted = white + (number % 3) * np.cumsum(white) / 50
        pieces.append([0.1, 0.003, 0.03, 1e-4][number % 4] * (tilted - tilted.mean()))
    return np.concatenate(pieces).astype(np.float32)


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


@pytest.mark.slow
def test_a_minute_is_the_unchunked_one_where_nothing_looks_further_than_an_overlap(
    chain, monkeypatch
):
    """Attention does, whatever the statistics; the convolutions do not."""
    for layer in chain.cleaner.encoder.layers:
        projection = layer.self_attn.linear_out
        for parameter in (projection.weight, projection.bias):
            monkeypatch.setattr(parameter, "data", torch.zeros_like(parameter))
    waveform = moody(60)
    unchunked = RestoreOptions(chunk_seconds=60, overlap_seconds=2, level="none")
    whole, _ = Restorer(chain, unchunked).restore(waveform, RATE)
    distance = {}
    for over in ("file", "chunk"):
        options = RestoreOptions(**CHUNKS, normalise_over=over)
        restored, _ = Restorer(chain, options).restore(waveform, RATE)
        difference = (restored - whole) / rms(whole - whole.mean())
        grid, hop = options.grid(chain), chain.output_hop
        starts = [start * hop for start, _ in grid.bounds(len(whole) // hop)][1:]
        assert len(starts) == 10
        length = grid.overlap_frames * hop
        distance[over] = [rms(difference[start : start + length]) for start in starts]
        distance[over].append(rms(difference))
    print(distance)
    assert max(distance["file"]) < 1e-4
    assert np.median(distance["chunk"]) > 0.05


@pytest.mark.parametrize("channels", ["each", "mono"])
def test_the_first_pass_sees_the_whole_resampled_signal(chain, channels, monkeypatch):
    stereo = np.stack([moody(12), 0.3 * moody(12, seed=1)])
    options = RestoreOptions(chunk_seconds=4, overlap_seconds=1, channels=channels)
    source = Source.from_array(stereo, 44100)
    taken = []
    measure = chain.measure
    monkeypatch.setattr(chain, "measure", lambda blocks: taken.append(measure(blocks)) or taken[0])
    job = Restorer(chain, options).job(source, ArraySink())
    chunks = list(job.chunks())
    heard = np.concatenate(list(source.resampled(RATE, channels == "mono")), axis=1)
    heard *= chunks[0].gains[:, None]  # at the level that the model gets
    expected = chain.cleaner.encoder.measure([torch.from_numpy(heard)])
    assert len(taken) == 1
    assert len(chunks) == 2
    for chunk in chunks:
        torch.testing.assert_close(chunk.statistics, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_samples", [1, 399, 4 * RATE])
def test_one_chunk_comes_out_the_same_either_way(chain, num_samples):
    """And so it would by its measured statistics, which are not taken."""
    waveform = moody(6)[:num_samples]
    options = {"chunk_seconds": 4.0, "overlap_seconds": 1.0}
    by_file, by_chunk = (
        Restorer(chain, RestoreOptions(**options, normalise_over=over)).restore(waveform, RATE)[0]
        for over in ("file", "chunk")
    )
    np.testing.assert_array_equal(by_file, by_chunk)
    batch, lengths = torch.from_numpy(waveform)[None], torch.tensor([num_samples])
    padded = torch.nn.functional.pad(batch, (0, -num_samples % chain.input_hop))
    nothing = torch.zeros(1, dtype=torch.int64)  # DAC takes no noise
    own = chain.restore(padded, lengths, nothing, nothing)
    statistics = chain.measure([waveform[None]])
    measured = chain.restore(padded, lengths, nothing, nothing, statistics)
    torch.testing.assert_close(measured, own, atol=1e-5, rtol=1e-4)


def test_files_batched_together_come_out_as_alone(chain):
    """Of one chunk and of several, of silence, of one sample."""
    options = RestoreOptions(chunk_seconds=2, overlap_seconds=0.5, level="none")
    waveforms = [moody(6), moody(6, seed=2)[: 5 * RATE], np.zeros(5 * RATE), moody(6)[: 2 * RATE]]
    waveforms += [moody(6)[:1], np.concatenate([np.zeros(4 * RATE), moody(6)])]
    waveforms = [waveform.astype(np.float32)[None] for waveform in waveforms]
    restorer = Restorer(chain, options, batch_size=5)
    jobs = [restorer.job(Source.from_array(w, RATE), ArraySink()) for w in waveforms]
    assert len(list(restorer.restore_jobs(jobs))) == len(jobs)
    for job, waveform in zip(jobs, waveforms, strict=True):
        alone, _ = Restorer(chain, options, batch_size=1).restore(waveform, RATE)
        tolerance = 1e-3 * rms(alone - alone.mean()) + 1e-6
        np.testing.assert_allclose(job.sink.waveform, alone, atol=tolerance)
        assert job.sink.waveform.shape[1] == 3 * waveform.shape[1]
        assert np.isfinite(alone).all()
    assert not jobs[2].sink.waveform.any()
