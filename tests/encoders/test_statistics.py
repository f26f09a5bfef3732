"""Statistics of a stream: as the whole signal's front end takes them, whatever the blocks."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.encoders.front_ends import KaldiMel

NORMALISING = ["w2v_bert", "wavlm_base", "hubert_base", "xls_r"]
OTHERS = ["log_mel", "gemma4", "gemma3n"]

several = settings(max_examples=25, deadline=None, derandomize=True)
lengths_and_cuts = st.integers(1, 6000).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), max_size=6).map(sorted))
)


def cut(waveform, places):
    """(channels, samples) -> blocks."""
    return torch.from_numpy(np.atleast_2d(waveform)).tensor_split(places, dim=1)


def reference(kind, stock, extractor_of, samples):
    """Mean and variance, from the stock extractor or by the book, of the padded samples."""
    if kind == "w2v_bert":
        inputs = extractor_of(kind)(
            [samples], sampling_rate=16000, do_normalize_per_mel_bins=False, return_tensors="np"
        )
        bands = inputs["input_features"][0].reshape(-1, 80).astype(np.float64)
        return np.concatenate([bands.mean(0), bands.var(0, ddof=1)])
    model, extractor = stock(kind), extractor_of(kind)
    own = [samples.mean(), samples.var()]
    if extractor.do_normalize:
        samples = (samples - own[0]) / np.sqrt(own[1] + 1e-7)
    layer = model.feature_extractor.conv_layers[0].conv
    with torch.no_grad():
        bias = None if layer.bias is None else layer.bias.double()
        hidden = functional.conv1d(
            torch.from_numpy(samples)[None, None], layer.weight.double(), bias, layer.stride
        )[0]
    return np.concatenate([own, hidden.mean(1).numpy(), hidden.var(1, correction=0).numpy()])


@pytest.mark.parametrize("kind", NORMALISING)
@several
@given(case=lengths_and_cuts)
def test_any_blocks_give_the_stock_extractors_statistics(
    kind, case, encoder, stock, extractor_of, speech_like
):
    num_samples, places = case
    waveform = speech_like(num_samples)
    beyond = 240 if kind == "w2v_bert" else 80
    padded = np.pad(waveform.astype(np.float64), (0, -num_samples % 320 + beyond))
    measured = encoder(kind).measure(cut(waveform, places))
    assert measured.dtype == torch.float64
    expected = reference(kind, stock, extractor_of, padded)
    np.testing.assert_allclose(measured.detach().numpy()[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMALISING)
@pytest.mark.parametrize("num_samples", [1, 319, 321, 9001])
def test_a_whole_clip_by_its_measured_statistics_is_the_clip_by_its_own(
    kind, num_samples, encoder, speech_like
):
    model, waveform = encoder(kind), speech_like(num_samples)
    clip, lengths = torch.from_numpy(waveform)[None], torch.tensor([num_samples])
    own, _ = model(clip, lengths)
    given, _ = model(clip, lengths, model.measure(cut(waveform, [num_samples // 3])))
    torch.testing.assert_close(given, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", NORMALISING)
def test_a_piece_by_the_signals_statistics_is_what_it_is_in_the_signal(kind, encoder, speech_like):
    """Of the front end: what comes after it sees further than a piece."""
    model = encoder(kind)
    waveform = speech_like(32000) * np.repeat([1, 0.01], 16000).astype(np.float32)
    whole = model.front_end(torch.from_numpy(waveform)[None], torch.tensor([100]))[0]
    piece = torch.from_numpy(waveform[60 * 320 : 80 * 320])[None]
    statistics = model.measure(cut(waveform, [7777, 8000]))
    inside = model.front_end(piece, torch.tensor([20]), statistics)[0]
    # Its last frame looks beyond it.
    torch.testing.assert_close(inside[:-1], whole[60:79], atol=1e-5, rtol=1e-4)
    alone = model.front_end(piece, torch.tensor([20]))[0]
    assert (alone[:-1] - whole[60:79]).norm() > 0.02 * whole[60:79].norm()


@pytest.mark.parametrize("kind", NORMALISING)
def test_channels_and_batches_do_not_mix(kind, encoder, speech_like):
    model = encoder(kind)
    signals = np.stack([speech_like(9000), 0.1 * speech_like(9000, seed=1) + 0.2])
    both = model.measure(cut(signals.astype(np.float32), [1, 4000]))
    lengths, clips = torch.tensor([3000, 1999]), torch.from_numpy(signals[:, :3000]).float()
    together, frames = model(clips, lengths, both)
    for row, length in enumerate(lengths):
        apart = model.measure(cut(signals[row].astype(np.float32), [500]))
        torch.testing.assert_close(both[row], apart[0], rtol=1e-9, atol=1e-12)
        alone, _ = model(clips[row : row + 1, :length], length[None], apart)
        valid = together[row, : frames[row]]
        torch.testing.assert_close(valid, alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", NORMALISING)
def test_silence_and_a_constant_are_finite(kind, encoder):
    model = encoder(kind)
    for value in (0.0, 0.5):
        signal = torch.full((1, 7000), value)
        statistics = model.measure(signal.split(1000, dim=1))
        assert torch.isfinite(statistics).all()
        features, _ = model(signal[:, :3000], torch.tensor([3000]), statistics)
        assert torch.isfinite(features).all()


@pytest.mark.parametrize("kind", NORMALISING)
def test_blocks_are_not_kept(kind, encoder):
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def blocks():
        nonlocal most
        for _ in range(20):
            block = torch.randn(1, 4000)
            alive.add(block)
            most = max(most, len(alive))
            yield block

    encoder(kind).measure(blocks())
    assert most <= 3


@pytest.mark.parametrize("kind", OTHERS)
def test_encoders_that_normalise_nothing_say_so(kind, encoder):
    model = encoder(kind)
    assert not model.needs_statistics
    with pytest.raises(NotImplementedError, match="no statistics"):
        model.measure([torch.zeros(1, 100)])
    with pytest.raises(NotImplementedError, match="no statistics"):
        model(torch.zeros(1, 100), torch.tensor([100]), torch.zeros(1, 2))


@pytest.mark.parametrize("num_samples", [1, 320, 9001])
def test_a_lead_is_as_if_the_clip_began_with_zeros(num_samples, extractor_of, speech_like):
    """Of w2v-BERT's front end: features, and statistics of a stream."""
    waveform = speech_like(num_samples)
    front_end, frames = KaldiMel(lead_samples=40), -(-num_samples // 320)
    filled = np.pad(waveform, (0, 320 * frames - num_samples))
    padded = np.pad(filled, (40, 200))
    expected = extractor_of("w2v_bert")([padded], sampling_rate=16000, return_tensors="pt")
    features = front_end(torch.from_numpy(filled)[None], torch.tensor([frames]))
    torch.testing.assert_close(features, expected["input_features"], atol=1e-4, rtol=1e-4)
    measured = front_end.measure(cut(waveform, [num_samples // 3]))
    stock = reference("w2v_bert", None, extractor_of, padded.astype(np.float64))
    np.testing.assert_allclose(measured.numpy()[0], stock, rtol=1e-5, atol=1e-5)


def test_a_lead_out_of_range_is_refused():
    with pytest.raises(UserError, match="lead_samples=241 must lie between 0 and 240"):
        KaldiMel(lead_samples=241)
