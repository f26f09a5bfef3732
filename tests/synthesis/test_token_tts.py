"""The text-to-speech network: what hears what, what can come out, and how it is drawn."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from open_miipher.base.errors import UserError
from open_miipher.base.noise import gumbel_noise, stream_keys
from open_miipher.synthesis import SamplingConfig, StackConfig, TokenTTS, TokenTTSConfig, sample
from open_miipher.synthesis.text import text_batch
from open_miipher.synthesis.token_tts import Cache

SIZE, FRAMES = 11, 6
GREEDY = SamplingConfig(do_sample=False)
TEXTS = ["a", "hello you", "ünïcode"]


def network(codebooks: int = 2, seed: int = 0) -> TokenTTS:
    """A tiny one whose weights are large enough that everything matters."""
    torch.manual_seed(seed)
    sizes = TokenTTSConfig(StackConfig(2, 2, 16), StackConfig(2, 2, 24))
    made = TokenTTS(codebooks, SIZE, FRAMES, 40, 40, sizes)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def codes_of(batch: int, frames: int = FRAMES, codebooks: int = 2) -> torch.Tensor:
    return torch.randint(SIZE, (batch, frames, codebooks), generator=torch.manual_seed(1))


def test_the_default_sizes_have_the_parameters_of_the_field_s():
    """Two tables of 1024 codes, of 300 places; one table each to read and to write."""
    made = TokenTTS(2, 1024, 150, 511, 100, TokenTTSConfig())
    count = sum(parameter.numel() for parameter in made.parameters())
    assert f"{count / 1e6:.2f}" == "4.95"
    assert [table.weight.shape for table in made.code_tables] == [(1024, 192)] * 2


@torch.no_grad()
def test_the_encoder_hears_what_follows():
    made = network()
    first, _ = made.encode(*text_batch(["hello a"]))
    other, _ = made.encode(*text_batch(["hello b"]))
    assert (first[0, 0] - other[0, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_decoder_does_not():
    made, codes = network(), codes_of(1, FRAMES - 1)
    text = text_batch(["hello"])
    before = made(*text, codes)
    codes[0, 3, 1] = (codes[0, 3, 1] + 1) % SIZE  # the 8th code
    after = made(*text, codes)
    for book in range(2):
        same = (before[book] == after[book]).all(-1)[0].tolist()
        # The 8th code decides over what comes from the 9th on: the frames from the 5th.
        assert same == [True] * 4 + [False] * (2 - book)


@torch.no_grad()
def test_padding_changes_nothing():
    made, codes = network(), codes_of(3)
    together = made(*text_batch(TEXTS), codes)
    for k, text in enumerate(TEXTS):
        alone = made(*text_batch([text]), codes[k : k + 1, : k + 2])
        for book in range(2):
            got = alone[book][0]
            torch.testing.assert_close(got, together[book][k, : len(got)], rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("codebooks", [1, 2, 4])
def test_every_codebook_has_codes_of_its_own_and_the_end_only_where_a_frame_begins(codebooks):
    made, codes = network(codebooks), codes_of(2, 3, codebooks)
    text = text_batch(["ab", "c"])
    logits = made(*text, codes)
    assert [own.shape[1:] for own in logits] == [
        (4, SIZE + 1) if book == 0 else (3, SIZE) for book in range(codebooks)
    ]
    before = made(*text, codes)
    with torch.no_grad():
        made.code_tables[0].weight += 1.0
    for book, own in enumerate(made(*text, codes)):
        assert not torch.equal(own[:, 1:], before[book][:, 1:])  # the tables are read …
    moved = network(codebooks)
    moved.code_tables[-1].weight.requires_grad_(True)
    for book in range(codebooks):  # … and each writes at its own place alone
        hidden = torch.randn(1, 24)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(
                moved.logits(hidden, book).sum(), moved.code_tables[-1].weight, allow_unused=True
            )
        assert (gradient is not None) == (book == codebooks - 1)


@torch.no_grad()
def test_the_whole_length_leaves_no_place_for_an_end():
    logits = network()(*text_batch(["a"]), codes_of(1, FRAMES))
    assert [own.shape[1] for own in logits] == [FRAMES, FRAMES]


@torch.no_grad()
@pytest.mark.parametrize("copies", [1, 3])
def test_the_cache_gives_what_the_whole_gives(copies):
    made, codes = network(), codes_of(3)
    text = text_batch(TEXTS)
    whole = made(*text, codes)
    cache = Cache(made, *text, FRAMES * 2, copies)
    said = codes.flatten(1).repeat_interleave(copies, 0)
    for place in range(FRAMES * 2):
        step = made.step(said[:, place - 1] if place else None, cache)
        wanted = whole[place % 2][:, place // 2].repeat_interleave(copies, 0)
        torch.testing.assert_close(step, wanted, rtol=0, atol=2e-5)


def test_speaking_works_on_every_code_once():
    """The cost is linear in the length: without a cache it would be a sum of lengths."""
    made, counts = network(), []
    layer = made.decoder[0].feed_forward
    layer.register_forward_hook(lambda _, inputs, out: counts.append(inputs[0].shape[1]))
    with torch.no_grad():
        made.end.fill_(0)
        made.biases[0][-1] = -1e9  # it never ends
    for length in (4, 8, 12):
        counts.clear()
        config = SamplingConfig(max_new_tokens=length)
        [codes] = sample(made, *text_batch(["hello"]), torch.tensor([0]), config)
        assert codes.shape == (length // 2, 2)
        assert sum(counts) == length


def greedy_without_cache(made: TokenTTS, text: str) -> torch.Tensor:
    codes = torch.zeros(1, 0, dtype=torch.int64)
    while codes.shape[1] < FRAMES * 2:
        place = codes.shape[1]
        frames = functional.pad(codes, (0, -place % 2)).view(1, -1, 2)
        logits = made(*text_batch([text]), frames)[place % 2][0, place // 2]
        if place == 0:
            logits[-1] = -torch.inf
        if logits.argmax() == SIZE:
            break
        codes = torch.cat([codes, logits.argmax().view(1, 1)], 1)
    return codes.view(-1, 2)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_the_likeliest_codes_are_those_of_the_network_without_a_cache(seed):
    made = network(seed=seed)
    spoken = sample(made, *text_batch(TEXTS), torch.arange(3), GREEDY)
    for text, codes in zip(TEXTS, spoken, strict=True):
        assert torch.equal(codes, greedy_without_cache(made, text))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("do_sample", [True, False])
def test_nothing_but_codes_comes_out(beams, do_sample):
    config = SamplingConfig(num_beams=beams, do_sample=do_sample, temperature=3.0)
    lengths = set()
    for seed in range(8):
        made = network(seed=seed)
        with torch.no_grad():
            made.biases[0][-1] = 2.0
        for codes in sample(made, *text_batch(TEXTS), torch.arange(3), config):
            assert codes.ndim == 2
            assert 1 <= len(codes) <= FRAMES
            assert codes.min() >= 0
            assert codes.max() < SIZE
            lengths.add(len(codes))
    assert len(lengths) > 1


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_said_depends_on_the_seed_and_the_number_alone(beams):
    made, config = network(), SamplingConfig(num_beams=beams, seed=5)
    together = sample(made, *text_batch(TEXTS), torch.tensor([7, 8, 9]), config)
    for k, text in enumerate(TEXTS):
        [alone] = sample(made, *text_batch([text]), torch.tensor([7 + k]), config)
        assert torch.equal(alone, together[k])
    other = dataclasses.replace(config, seed=6)
    assert not torch.equal(
        sample(made, *text_batch(["hello you"]), torch.tensor([8]), other)[0], together[1]
    )
    assert not torch.equal(
        sample(made, *text_batch(["hello you"]), torch.tensor([7]), config)[0], together[1]
    )


def mean_likelihood(made: TokenTTS, text: str, codes: torch.Tensor) -> float:
    logits = made(*text_batch([text]), codes[None])
    total = sum(
        own.log_softmax(-1)[0, : len(codes)].gather(1, codes[:, book, None]).sum().item()
        for book, own in enumerate(logits)
    )
    if len(codes) < FRAMES:
        total += logits[0].log_softmax(-1)[0, len(codes), SIZE].item()
    return total / codes.numel()


@torch.no_grad()
def test_more_beams_find_speech_that_is_likelier():
    gains = []
    for seed in range(8):
        made = network(seed=seed)
        made.biases[0][-1] = -1e9  # all are of one length, so that the best is the likeliest
        found = [
            sample(
                made,
                *text_batch(["hello you"]),
                torch.tensor([0]),
                SamplingConfig(num_beams=beams, do_sample=False),
            )[0]
            for beams in (1, 8)
        ]
        one, eight = (mean_likelihood(made, "hello you", codes) for codes in found)
        gains.append(eight - one)
    assert min(gains) > -1e-4
    assert max(gains) > 1e-3


@torch.no_grad()
def test_draws_are_as_frequent_as_they_are_likely():
    made = network()
    text, lengths = text_batch(["hello you"])
    config = SamplingConfig(max_new_tokens=2, temperature=2.0, top_k=4)
    number = 4000
    drawn = sample(
        made, text.expand(number, -1), lengths.expand(number), torch.arange(number), config
    )
    first = torch.stack(drawn)[:, 0, 0]
    logits = made.step(None, Cache(made, text, lengths, 2))[0, :SIZE] / 2.0
    best = logits.topk(4)
    shares = torch.bincount(first, minlength=SIZE) / number
    torch.testing.assert_close(shares[best.indices], best.values.softmax(0), rtol=0, atol=0.03)
    assert shares[best.indices].sum() == 1


def test_gumbel_noise_is_what_its_name_says():
    noise = gumbel_noise(stream_keys(0, torch.arange(40), 3), 1000)
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(1.2825, abs=0.02)
    assert torch.equal(noise[:, :10], gumbel_noise(stream_keys(0, torch.arange(40), 3), 10))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_beams": 0}, "num_beams must lie within 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"max_new_tokens": 13}, "max_new_tokens must lie within 2 … 12"),
        ({"seed": -1}, "seed must lie within 0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        sample(network(), *text_batch(["a"]), torch.tensor([0]), SamplingConfig(**changes))
    with pytest.raises(UserError, match="width a multiple of heads"):
        TokenTTS(2, SIZE, FRAMES, 40, 40, TokenTTSConfig(StackConfig(1, 3, 16)))
