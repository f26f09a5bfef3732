"""Every encoder: frames, padding, parity with the stock extractor and model, frozenness."""

import pytest
import torch
import waits

KINDS = [
    "gemma4",
    "gemma3n",
    "w2v_bert",
    "wavlm_base",
    "wavlm_large",
    "hubert_base",
    "hubert_large",
    "hubert_batch_norm",
    "xls_r",
]
ALL_KINDS = ["log_mel", "stft", *KINDS]
AWKWARD = [1, 160, 161, 319, 320, 321, 399, 400, 401, 513, 639, 640, 641, 1000, 1281, 2999]


def alone(encoder, waveform):
    features, lengths = encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert features.shape[1] == lengths.item()
    return features[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [9000, 16000, 641, 1])
def test_equals_stock_extractor_and_model_on_the_padded_clip(
    kind, num_samples, encoder, stock_features, speech_like
):
    waveform = speech_like(num_samples)
    ours, stock = alone(encoder(kind), waveform), stock_features(kind, waveform)
    assert ours.shape == stock.shape
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_frames_and_batching(kind, encoder, speech_like):
    """A batch of unequal clips, whatever is in its padding, equals the clips one at a time."""
    model = encoder(kind)
    clips = [speech_like(n, seed=n) for n in AWKWARD]
    batch = torch.full((len(clips), max(AWKWARD) + 2000), 3.0)
    batch[::2] = float("nan")
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    features, lengths = model(batch, torch.tensor(AWKWARD))
    assert features.shape == (len(clips), -(-batch.shape[1] // model.hop_length), model.width)
    assert lengths.tolist() == [-(-n // model.hop_length) for n in AWKWARD]
    assert torch.isfinite(features).all()
    for row, clip, length in zip(features, clips, lengths, strict=True):
        single = alone(model, clip)
        scale = max(1.0, single.abs().max().item())
        torch.testing.assert_close(row[:length], single, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_nothing_waits_for_the_device(kind, encoder):
    """transformers looks whether a mask hides anything, at every call."""
    model = encoder(kind)
    with waits.counted() as seen:
        model(torch.randn(2, 6400), torch.tensor([6400, 3000]))
    assert not seen


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_attention_gets_no_mask_that_hides_nothing(kind, encoder, speech_like, monkeypatch):
    """A full batch says so by lengths of None; its features are those of the lengths given."""
    model = encoder(kind)
    batch = torch.stack([torch.from_numpy(speech_like(6500, seed)) for seed in range(2)])
    expected, lengths = model(batch, torch.tensor([6500, 6500]))
    masks, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    features, same = model(batch, None)
    assert not any(m is not None and m.dtype == torch.bool and m.all() for m in masks)
    assert torch.equal(same, lengths)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    if kind in ("hubert_base", "xls_r"):
        assert masks == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_frames_of_many_lengths(kind, encoder):
    model = encoder(kind)
    for num_samples in range(1, 3001, 7):
        features, lengths = model(torch.randn(1, num_samples), torch.tensor([num_samples]))
        expected = -(-num_samples // model.hop_length)
        assert (features.shape[1], lengths.item()) == (expected, expected)
        assert torch.isfinite(features).all()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_silence_is_finite(kind, encoder):
    features, _ = encoder(kind)(torch.zeros(2, 3200), torch.tensor([3200, 100]))
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("kind", "lookahead"), [("gemma4", 0), ("gemma3n", 832)])
def test_usm_sees_the_future_no_further_than_said(kind, lookahead, encoder, speech_like):
    """A mask of the wrong polarity would let all of it in."""
    change = 32000 + lookahead  # what comes from here on is unknown to frames 0 … 49
    first = torch.from_numpy(speech_like(64000))[None]
    second = first.clone()
    second[:, change:] += 0.1 * torch.randn(1, 64000 - change)
    lengths = torch.tensor([64000])
    before, after = (encoder(kind)(x, lengths)[0] for x in (first, second))
    torch.testing.assert_close(after[:, :50], before[:, :50], atol=1e-5, rtol=0)
    assert (after[:, 50:] - before[:, 50:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_stays_frozen_and_in_evaluation_mode(kind, encoder):
    model = encoder(kind)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_called_once_each_and_pass_gradients(kind, encoder, speech_like):
    model = encoder(kind)
    assert len(model.layers) == 2
    bias = torch.zeros(model.width, requires_grad=True)
    calls = []

    def add(module, _args, output):
        calls.append(module)
        if isinstance(output, tuple):
            return (output[0] + bias, *output[1:])
        return output + bias

    handles = [layer.register_forward_hook(add) for layer in model.layers]
    features, _ = model(torch.from_numpy(speech_like(3200))[None], torch.tensor([3200]))
    for handle in handles:
        handle.remove()
    features.square().sum().backward()
    assert calls == list(model.layers)
    assert bias.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_autocast_leaves_the_front_end_alone(kind, dtype, encoder, speech_like):
    waveform, lengths = torch.from_numpy(speech_like(6400))[None], torch.tensor([6400])
    model = encoder(kind)
    exact, _ = model(waveform, lengths)
    with torch.autocast("cpu", dtype=dtype):
        rounded, _ = model(waveform, lengths)
    error = (rounded.float() - exact).norm() / exact.norm()
    assert error < (
        1e-6 if kind in ("log_mel", "stft") else {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    )
