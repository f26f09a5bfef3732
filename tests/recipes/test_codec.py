"""The codec's training: what a step moves, how codebooks follow, what is refused."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from open_miipher.base.errors import UserError
from open_miipher.base.noise import stream_keys
from open_miipher.codec import AudioTokenizer, Encodec
from open_miipher.codec.network import EncodecNetworkConfig
from open_miipher.data import AudioBatch
from open_miipher.losses import MultiScaleMelConfig
from open_miipher.recipes.codec import Codec, CodecRecipeConfig

SMALL = {"num_filters": 2, "hidden_size": 8, "upsampling_ratios": [8, 8, 5], "codebook_size": 64}
WEIGHTS = {"waveform": 1.0, "mel": 1.0, "commitment": 0.5}
MEL = MultiScaleMelConfig([10, 20], [256, 1024])


def network(**changes) -> Encodec:
    torch.manual_seed(0)
    return Encodec(EncodecNetworkConfig(**{**SMALL, **changes}))


def recipe(**changes) -> Codec:
    torch.manual_seed(0)
    data = SimpleNamespace(sample_rate=24000, crop_seconds=0.4)
    spec = {"name": "encodec", **SMALL, **changes.pop("network", {})}
    return Codec(data, 0, CodecRecipeConfig(spec, WEIGHTS, MEL, **changes))


def sounds(count=4, num_samples=9600, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, num_samples, generator=generator)


def batch(waveform) -> AudioBatch:
    count, num_samples = waveform.shape
    lengths = torch.full((count,), num_samples)
    return AudioBatch(torch.arange(count), ["x"] * count, [], waveform, lengths, None)


def keys(first=0, count=4):
    return stream_keys(0, torch.arange(first, first + count), 1)


def books(codec):
    return [layer.codebook for layer in codec.model.quantizer.layers]


def test_the_published_sizes_fit_below_a_million():
    codec = Encodec(EncodecNetworkConfig(num_filters=16, upsampling_ratios=[5, 8, 8]))
    weights = sum(p.numel() for p in codec.parameters())
    codes = sum(book.embed.numel() for book in books(codec))
    assert weights + codes < 1e6
    assert (codec.hop, codec.model.config.target_bandwidths) == (320, [1.5])
    assert len(books(codec)) == 2


def test_codes_begin_at_vectors_of_the_first_batch():
    codec = network(restart_below=0.03)
    waveform = sounds()
    codec(waveform, keys())
    embeddings = codec.model.encoder(waveform[:, None]).transpose(1, 2).flatten(0, 1)
    first = books(codec)[0]
    used = first.cluster_size > 0
    assert used.all()
    nearest = torch.cdist(first.embed, embeddings).min(dim=1).values
    assert nearest.max() < 0.2 * embeddings.std()  # the step has moved them a little since


def test_a_code_follows_the_mean_of_what_it_stands_for():
    codec = network(codebooks=1, restart_below=0.0, decay=0.9)
    book = books(codec)[0]
    seen = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    codes = torch.arange(200) % 64
    before = book.embed_avg.clone()
    codec._follow(book, seen, codes)
    counts = torch.bincount(codes, minlength=64).float()
    sums = torch.stack([seen[codes == code].sum(0) for code in range(64)])
    torch.testing.assert_close(book.cluster_size, 0.1 * counts)
    torch.testing.assert_close(book.embed_avg, 0.9 * before + 0.1 * sums)
    torch.testing.assert_close(book.embed, sums / counts[:, None], atol=1e-3, rtol=1e-3)


def test_an_unused_code_begins_anew_and_a_used_one_stays():
    codec = network(codebooks=1)
    book = books(codec)[0]
    book.cluster_size.fill_(5.0)
    book.cluster_size[7] = 0.0
    book.embed.normal_()
    before, seen = book.embed.clone(), 10 + torch.rand(100, 8)
    codec._restart(book, seen, seen)
    assert torch.equal(book.embed[:7], before[:7])
    assert torch.equal(book.embed[7], seen[0])


def test_what_is_not_finite_moves_no_code():
    codec = network()
    codec(sounds(), keys())
    before = [book.embed.clone() for book in books(codec)]
    codec(torch.full((4, 9600), float("nan")), keys(4))
    assert all(torch.equal(a, b.embed) for a, b in zip(before, books(codec), strict=True))


def test_the_order_of_a_batch_does_not_matter_to_the_codebooks():
    """So ranks may have any share of it."""
    first, second = network(), network()
    waveform = sounds()
    for step in range(3):
        first(waveform, keys(4 * step))
        second(waveform.flip(0), keys(4 * step).flip(0))
    for one, other in zip(books(first), books(second), strict=True):
        torch.testing.assert_close(one.embed, other.embed)
        assert (one.cluster_size - other.cluster_size).abs().max() < 1e-4


def test_gradients_pass_the_quantiser_straight():
    codec = network(unquantised=0.0)
    decoded, commitment = codec(sounds(), keys())
    decoded.square().mean().backward(retain_graph=True)
    weight = codec.model.encoder.layers[0].conv.bias
    through_sound = weight.grad.clone()
    assert through_sound.abs().max() > 0
    commitment.mean().backward()
    assert not torch.equal(weight.grad, through_sound)


def test_a_share_is_decoded_without_quantising():
    quantised, free = network(unquantised=0.0), network(unquantised=1.0)
    waveform = sounds()
    assert not torch.allclose(quantised(waveform, keys())[0], free(waveform, keys())[0])
    embeddings = free.model.encoder(waveform[:, None])
    expected = free.model.decoder(embeddings)[:, 0]
    torch.testing.assert_close(free(waveform, keys(8))[0], expected, atol=1e-5, rtol=1e-4)


def test_validation_moves_no_code_and_gives_the_score():
    codec = recipe()
    clip = batch(sounds())
    next(codec.passes(clip, codec.trained))
    before = [book.embed.clone() for book in books(codec.codec)]
    with torch.no_grad():
        scores = codec.validate(batch(sounds(1, seed=3)))
    assert scores.keys() >= {"mel_distance", "log_spectral_distance", "loss", *WEIGHTS}
    for old, book in zip(before, books(codec.codec), strict=True):
        assert torch.equal(old, book.embed)
    assert codec.samples(None) == {}
    heard = codec.samples(batch(sounds(1)))
    assert [s.waveform.shape for s in heard.values()] == [(9600,), (9600,)]


@pytest.mark.slow
def test_it_learns_tones():
    """A minute: a tone's codes make it again, and the second codebook helps."""
    codec = recipe(network={"num_filters": 4, "unquantised": 0.25})
    optimizer = torch.optim.AdamW(codec.codec.parameters(), lr=3e-3, betas=(0.8, 0.99))
    time = torch.arange(9600) / 24000
    losses = []
    for step in range(150):
        pitch = 100 + 20 * torch.rand(4, 1, generator=torch.Generator().manual_seed(step))
        tones = sum(0.1 / k * torch.sin(2 * torch.pi * k * pitch * time) for k in (1, 2, 3))
        given = batch(tones)
        given.positions = given.positions + 4 * step
        item = next(codec.passes(given, codec.trained))
        item.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(item.losses["mel"]))
    assert sum(losses[-10:]) < 0.6 * sum(losses[5:15])
    assert all((book.cluster_size > 0.05).float().mean() > 0.3 for book in books(codec.codec))


def test_a_saved_codec_tokenises_as_it_trained(tmp_path):
    codec = network(codebook_size=1024)
    codec(sounds(4, 96000), keys())
    codec.save(tmp_path)
    tokenizer = AudioTokenizer("cpu", str(tmp_path), 1.5)
    waveform = sounds(1, seed=5)
    (codes,) = tokenizer.encode(waveform, torch.tensor([9600]))
    (decoded,) = tokenizer.decode([codes])
    with torch.no_grad():
        expected = codec.eval()(waveform)[0][0]
    assert len(codes.unique()) > 10
    # float16 moves a few vectors to another code.
    assert (decoded - expected).square().mean() < 0.1 * expected.square().mean()
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"sample_rate": 16000}}, "make them equal"),
        ({"data": {"crop_seconds": 0.05}}, "8 frames of 320 samples"),
        ({"network": {"decay": 1.0}}, "decay must lie between"),
        ({"network": {"unquantised": 1.5}}, "unquantised must lie between"),
        ({"gain_db": (3.0, -3.0)}, "from low to high"),
        ({"network": {"codebook_size": 1000}}, "power of 2"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    given = {"sample_rate": 24000, "crop_seconds": 0.4, **changes.pop("data", {})}
    spec = {"name": "encodec", **SMALL, **changes.pop("network", {})}
    config = CodecRecipeConfig(spec, WEIGHTS, MEL, **changes)
    with pytest.raises(UserError, match=words):
        Codec(SimpleNamespace(**given), 0, config)
