"""Whole chains on every encoder: batches of unlike lengths, levels, and bfloat16 weights."""

from typing import Any

import numpy as np
import pytest
import torch
from device_work import Work, pretended_gpu
from torch.overrides import TorchFunctionMode

from open_miipher.base.registry import build
from open_miipher.cleaners import CLEANERS
from open_miipher.encoders import ENCODERS
from open_miipher.restoration import Chain, RestoreOptions, Restorer, Source
from open_miipher.restoration.streams import ArraySink
from open_miipher.vocoders import VOCODERS, base

KINDS = ["gemma4", "gemma3n", "w2v_bert", "wavlm_base", "hubert_large", "log_mel", "stft"]
KINDS += ["gemma4 wavenext2", "log_mel wavenext2"]  # in place of the vocoder of the others
SECONDS = [1.7, 0.4, 2.9, 0.05, 1.2, 4.6, 0.9]
OPTIONS = RestoreOptions(level="none", chunk_seconds=2.0, overlap_seconds=0.4)


def specs(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cleaner and a vocoder for an encoder."""
    encoder, _, other = kind.partition(" ")
    if other:
        cleaner, usual = specs(encoder)
        networks = {"hop_length": 300 if encoder == "log_mel" else 240, "n_fft": 400}
        networks |= {"width": 32, "feed_forward_width": 256, "num_blocks": 8, "kernel_size": 3}
        kept = ("num_iterations", "gain", "mel", "upsample", "upsample_factor", "pre_net")
        own = {key: usual[key] for key in kept if key in usual}
        return cleaner, {"name": other, **own, "generator": networks}
    small = {"stem_channels": 4, "down_channels": [4, 6], "up_channels": [8, 6, 4]}
    small |= {"condition_channels": 8, "dilations": [[1, 2, 1, 2]] * 3}
    if kind == "stft":
        return {"name": "band_convolution", "width": 8, "full_band_width": 8}, {"name": "istft"}
    if kind == "log_mel":
        cleaner = {"name": "conformer", "width": 16, "num_blocks": 1, "feed_forward_width": 16}
        return cleaner, {
            "name": "wavefit",
            "num_iterations": 2,
            "gain": "power",
            "mel": {},
            "generator": {**small, "up_factors": [5, 6, 10]},
        }
    if kind.startswith("gemma"):
        return {"name": "parallel_adapters", "bottleneck": 16, "init": "random"}, {
            "name": "wavefit",
            "num_iterations": 2,
            "upsample": "linear",
            "upsample_factor": 4,
            "pre_net": {"num_blocks": 1, "num_heads": 2},
            "generator": {**small, "up_factors": [6, 5, 4], "fold": 2},
        }
    rates = {"sample_rate": 48000, "channels": 32, "upsampling_rates": [8, 5, 4, 3, 2]}
    lora = {"name": "lora", "rank": 4, "alpha": 4, "target": "output_dense"}
    return lora, {"name": "dac", **rates}


@pytest.fixture(scope="module")
def make_chain(encoder_spec):
    def make(kind: str, **keys: Any) -> Chain:
        own = build(ENCODERS, encoder_spec(kind.partition(" ")[0]))
        torch.manual_seed(0)
        for_cleaner, for_vocoder = specs(kind)
        cleaner = build(CLEANERS, for_cleaner, own)
        vocoder = build(VOCODERS, for_vocoder, own.width, own.frame_rate)
        for network, share in (
            (cleaner, 0.1 if kind.startswith("log_mel") else 0.7),
            (vocoder, 0.7),
        ):
            for parameter in network.parameters():
                if parameter.requires_grad and parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=share * parameter[0].numel() ** -0.5)
        cleaner.merge()
        return Chain(cleaner, vocoder, **keys)

    return make


def restore_all(model: Chain, waveforms: list[np.ndarray], batch_size: int) -> list[np.ndarray]:
    """Restore waveforms at the model's own rate."""
    restorer = Restorer(model, OPTIONS, batch_size)
    sources = [Source.from_array(w[None], model.input_rate) for w in waveforms]
    jobs = [restorer.job(source, ArraySink()) for source in sources]
    assert len(list(restorer.restore_jobs(jobs))) == len(jobs)
    assert not any(job.error for job in jobs)
    return [job.sink.waveform[0] for job in jobs]


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_a_batch_of_unlike_lengths_is_as_alone(make_chain, speech_like, monkeypatch, kind):
    from open_miipher.restoration import batches

    monkeypatch.setattr(batches, "MOST_PADDING", 1.0)
    model = make_chain(kind)
    seconds = enumerate(SECONDS)
    waveforms = [speech_like(round(s * model.input_rate), seed) for seed, s in seconds]
    alone = restore_all(model, waveforms, 1)
    sizes: list[int] = []
    restore = model.restore
    monkeypatch.setattr(
        model, "restore", lambda *inputs: (sizes.append(len(inputs[0])), restore(*inputs))[1]
    )
    together = restore_all(model, waveforms, 5)
    assert max(sizes) == 5
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5 * max(1.0, np.abs(one).max()))
        assert np.abs(one).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_recording_is_restored_as_a_loud_one(make_chain, speech_like, kind):
    model = make_chain(kind)
    loud = speech_like(3 * model.input_rate)
    expected, *softer = restore_all(model, [loud, 0.1 * loud, 0.01 * loud], 1)
    for gain, restored in zip((0.1, 0.01), softer, strict=True):
        scaled = restored / gain if model.restores_level else restored
        assert np.linalg.norm(scaled - expected) < 0.01 * np.linalg.norm(expected)


class Casts(TorchFunctionMode):
    """Counts conversions of weights to another type."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Size] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        first = args[0] if args else None
        if isinstance(first, torch.nn.Parameter) and isinstance(result, torch.Tensor):
            is_large = first.ndim > 1 and result.shape == first.shape
            if is_large and result.dtype != first.dtype:
                self.weights.append(first.shape)
        return result


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_are_stored_so_and_sound_alike(make_chain, speech_like, kind):
    exact, rounded = make_chain(kind), make_chain(kind, amp="bf16")
    assert rounded.fingerprint == f"{exact.fingerprint}-bf16"
    weights = [p for part in (rounded.cleaner, rounded.vocoder) for p in part.parameters()]
    in_bf16 = sum(p.numel() for p in weights if p.dtype == torch.bfloat16)
    # A tiny WaveNeXt 2 is mostly its first convolution: that of the paper, for a seventh.
    assert in_bf16 > (0.5 if kind == "stft" or "wavenext2" in kind else 0.8) * sum(
        p.numel() for p in weights
    )
    for part in (rounded.cleaner, rounded.vocoder):
        assert not any(hasattr(module, "parametrizations") for module in part.modules())
    waveform = speech_like(2 * exact.input_rate)
    [expected] = restore_all(exact, [waveform], 1)
    with Casts() as casts:
        [restored] = restore_all(rounded, [waveform], 1)
    assert casts.weights == []
    error = np.linalg.norm(restored - expected) / np.linalg.norm(expected)
    assert error < 0.1


def test_a_chain_without_noise_draws_none(make_chain, speech_like, monkeypatch):
    model = make_chain("w2v_bert")
    monkeypatch.setattr(base, "white_noise", None)
    [restored] = restore_all(model, [speech_like(16000)], 1)
    assert restored.any()


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_batch_a_gpu_is_given_nothing_by_the_host_and_asked_nothing(make_chain, kind):
    """So a CUDA graph can hold it; to wait for a number raises, as there is none."""
    model = make_chain(kind)
    frames = 60
    with pretended_gpu(model.cleaner, model.vocoder) as there:
        model.device = torch.device("cuda")
        waveform = torch.empty(2, frames * model.input_hop, **there)
        lengths, keys, starts = torch.zeros(3, 2, dtype=torch.int64, **there)
        for given, has_ends in ((None, False), (lengths, True)):
            with Work() as work:
                spoken = model._compute(has_ends, waveform, given, keys, starts, None)
            assert spoken.shape == (2, frames * model.output_hop)
            assert not work.from_host
