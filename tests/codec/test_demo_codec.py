"""The codec that comes with the project."""

import torch

from open_miipher.codec import AudioTokenizer
from open_miipher.codec.audio_tokenizer import DEMO_CODEC


def test_it_is_small_and_has_encodecs_frames():
    codec = AudioTokenizer("cpu", "demo")
    assert (codec.sample_rate, codec.hop) == (24000, 320)
    assert (codec.codebooks, codec.codebook_size) == (2, 1024)
    assert sum(path.stat().st_size for path in DEMO_CODEC.iterdir()) < 3e6


def test_what_it_says_again_is_as_loud_as_it_was_and_silence_stays_silent():
    codec = AudioTokenizer("cpu", "demo")
    time = torch.arange(24000) / 24000
    voiced = sum(0.05 * torch.sin(2 * torch.pi * 150 * k * time) / k for k in range(1, 9))
    lengths = torch.tensor([24000, 24000])
    codes = codec.encode(torch.stack([voiced, torch.zeros(24000)]), lengths)
    loud, silent = (sound[4800:].square().mean().sqrt() for sound in codec.decode(codes))
    assert 0.3 < loud / voiced.square().mean().sqrt() < 3
    assert silent < 0.01
