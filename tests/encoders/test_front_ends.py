"""Mel front ends against the stock extractors, on the waveform padded to whole frames."""

import numpy as np
import pytest
import torch

from open_miipher.encoders.base import frame_mask
from open_miipher.encoders.front_ends import standardise

MEL_KINDS = ["gemma4", "gemma3n", "w2v_bert"]


def signals(speech_like):
    rng = np.random.default_rng(1)
    time = np.arange(24000) / 16000
    gaps = 0.1 * rng.standard_normal(24000)
    gaps[5000:12000] = 0
    yield "speech", speech_like(24001)
    yield "faint", 1e-4 * rng.standard_normal(9000)
    yield "gaps", gaps
    yield "tone", 0.9 * np.sin(2 * np.pi * 440 * time)
    yield "chirp", 0.5 * np.sin(2 * np.pi * (100 * time + 2500 * time**2))
    yield "impulse", np.eye(1, 640)[0]


def ours(kind, encoder, waveform):
    model = encoder(kind)
    frames = -(-len(waveform) // model.hop_length)
    padded = np.pad(waveform, (0, frames * model.hop_length - len(waveform)))
    arguments = (torch.tensor([frames]),) if kind == "w2v_bert" else ()
    return model.front_end(torch.from_numpy(padded).float()[None], *arguments)


@pytest.mark.parametrize("signal", ["speech", "faint", "gaps", "tone", "chirp", "impulse"])
@pytest.mark.parametrize("kind", MEL_KINDS)
def test_equals_the_stock_extractor(kind, signal, encoder, exact_stock_mel, speech_like):
    """In double precision: in single, a band beside a loud tone holds nothing but rounding."""
    waveform = dict(signals(speech_like))[signal].astype(np.float32)
    mel, stock = ours(kind, encoder, waveform), exact_stock_mel(kind, waveform)
    torch.testing.assert_close(mel, stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MEL_KINDS)
def test_equals_the_stock_extractor_in_single_precision(kind, encoder, stock_input, speech_like):
    waveform = speech_like(20011)
    _, stock = stock_input(kind, waveform)
    torch.testing.assert_close(ours(kind, encoder, waveform), stock, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MEL_KINDS)
def test_autocast_changes_no_bit(kind, encoder, speech_like):
    waveform = speech_like(9000)
    exact = ours(kind, encoder, waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(kind, encoder, waveform), exact)


def test_kaldi_bands_have_mean_0_and_variance_1(encoder, speech_like):
    mel = ours("w2v_bert", encoder, speech_like(16000)).unflatten(2, (2, 80)).flatten(1, 2)[0]
    torch.testing.assert_close(mel.mean(0), torch.zeros(80), atol=1e-5, rtol=0)
    torch.testing.assert_close(mel.var(0), torch.ones(80), atol=1e-4, rtol=0)


def test_standardise_ignores_the_padding():
    waveform, lengths = 3 + 2 * torch.randn(2, 100), torch.tensor([100, 40])
    waveform = waveform * frame_mask(lengths, 100)
    normalised = standardise(waveform, lengths)
    for row, length in zip(normalised, [100, 40], strict=True):
        valid = row[:length]
        torch.testing.assert_close(valid.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(valid.var(unbiased=False), torch.tensor(1.0), atol=1e-5, rtol=0)
        assert (row[length:] == 0).all()
