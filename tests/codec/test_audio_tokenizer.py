import json

import pytest
import torch
from tiny_codec import make_codec
from torch.nn.utils.rnn import pad_sequence

from open_miipher.base.errors import UserError
from open_miipher.codec import AudioTokenizer, CodecConfig, audio_tokenizer

# None but two are multiples of 320; several are shorter than a kernel at one of the layers.
LENGTHS = [24000, 1, 2, 7, 39, 40, 41, 161, 319, 320, 321, 1919, 2240, 2241, 12345, 23999, 17]


def clips(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    return [0.2 * torch.randn(n, generator=generator) for n in lengths]


def as_batch(waveforms):
    # Beyond its end, an item holds rubbish that must not be heard.
    padded = pad_sequence(waveforms, batch_first=True, padding_value=9.0)
    return padded, torch.tensor([len(w) for w in waveforms])


def stock_codes(reference, waveform, bandwidth):
    with torch.no_grad():
        codes = reference.encode(waveform[None, None], bandwidth=bandwidth).audio_codes
    return codes[0, 0].T


@pytest.mark.parametrize("bandwidth", [1.5, 3.0])
def test_a_batch_gives_what_transformers_gives_for_each_alone(codec_folder, reference, bandwidth):
    tokenizer = AudioTokenizer("cpu", str(codec_folder), bandwidth)
    waveforms = clips()
    codes = tokenizer.encode(*as_batch(waveforms))
    for waveform, code in zip(waveforms, codes, strict=True):
        assert code.dtype == torch.int16
        assert torch.equal(code.long(), stock_codes(reference, waveform, bandwidth))
    assert codes[0].unique().numel() > 20  # the codes say something


def test_one_by_one_gives_the_same_as_a_batch(tokenizer):
    waveforms = clips()
    batched = tokenizer.encode(*as_batch(waveforms))
    for waveform, expected in zip(waveforms, batched, strict=True):
        (alone,) = tokenizer.encode(waveform[None], torch.tensor([len(waveform)]))
        assert torch.equal(alone, expected)


def test_decoding_gives_what_transformers_gives_for_each_alone(tokenizer, reference):
    waveforms = clips()
    codes = tokenizer.encode(*as_batch(waveforms))
    decoded = tokenizer.decode(codes)
    for code, waveform in zip(codes, decoded, strict=True):
        with torch.no_grad():
            expected = reference.decode(code.long().T[None, None], [None]).audio_values[0, 0]
        assert waveform.shape == expected.shape == (len(code) * 320,)
        torch.testing.assert_close(waveform, expected, atol=1e-6, rtol=1e-5)


def test_decode_of_encode_keeps_the_length(tokenizer):
    waveforms = clips()
    padded, lengths = as_batch(waveforms)
    decoded = tokenizer.decode(tokenizer.encode(padded, lengths), lengths.tolist())
    assert [len(w) for w in decoded] == LENGTHS


def test_tokens_come_at_150_a_second_in_order_of_time(tokenizer):
    second = 0.2 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(2))
    (codes,) = tokenizer.encode(second, torch.tensor([24000]))
    assert codes.shape == (75, 2)
    assert codes.flatten().shape == (150,)
    (start,) = tokenizer.encode(second[:, :12000], torch.tensor([12000]))
    # The codec hears the past only: the first half second has the first 75 tokens of the order,
    # but for the last frame, which sees its end reflected.
    assert torch.equal(start.flatten()[:72], codes.flatten()[:72])
    assert (tokenizer.sample_rate, tokenizer.hop, tokenizer.frame_rate) == (24000, 320, 75)
    assert (tokenizer.codebooks, tokenizer.codebook_size) == (2, 1024)


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setitem(audio_tokenizer._SECONDS_AT_ONCE, "cpu", 1.0)


def test_pieces_give_what_the_whole_gives(tokenizer, reference, monkeypatch):
    waveforms = clips([24000 * 3 + 17, 24000, 48000, 48001, 100, 24000 * 2 - 1])
    padded, lengths = as_batch(waveforms)
    whole = tokenizer.encode(padded, lengths)
    sound = tokenizer.decode(whole)
    monkeypatch.setitem(audio_tokenizer._SECONDS_AT_ONCE, "cpu", 1.0)
    for expected, piecewise in zip(whole, tokenizer.encode(padded, lengths), strict=True):
        assert torch.equal(piecewise, expected)
    for expected, piecewise in zip(sound, tokenizer.decode(whole), strict=True):
        torch.testing.assert_close(piecewise, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(whole[0].long(), stock_codes(reference, waveforms[0], 1.5))


@pytest.mark.usefixtures("short_pieces")
def test_a_stream_gives_what_the_whole_gives(tokenizer, reference):
    (waveform,) = clips([24000 * 5 + 123])
    blocks = waveform.split(7001)
    codes = torch.cat(list(tokenizer.encode_stream(blocks)))
    assert torch.equal(codes.long(), stock_codes(reference, waveform, 1.5))
    sound = torch.cat(list(tokenizer.decode_stream(codes.split(100))))
    with torch.no_grad():
        expected = reference.decode(codes.long().T[None, None], [None]).audio_values[0, 0]
    torch.testing.assert_close(sound, expected, atol=1e-6, rtol=1e-5)


def test_a_stream_holds_no_more_than_a_piece(tokenizer):
    """Of an endless signal, tokens come before it ends."""

    def endless():
        while True:
            yield torch.zeros(24000)

    codes = next(tokenizer.encode_stream(endless()))
    assert len(codes) == 75 * 8


def test_nothing_gives_no_tokens_and_no_sound(tokenizer):
    (codes,) = tokenizer.encode(torch.zeros(1, 0), torch.tensor([0]))
    assert codes.shape == (0, 2)
    (sound,) = tokenizer.decode([codes])
    assert sound.shape == (0,)
    with_nothing = tokenizer.encode(torch.zeros(2, 640), torch.tensor([0, 640]))
    assert [len(each) for each in with_nothing] == [0, 2]


def test_the_fingerprint_tells_weights_and_bandwidths_apart(codec_folder, tmp_path):
    first = AudioTokenizer("cpu", str(codec_folder), 1.5)
    assert AudioTokenizer.from_config(CodecConfig(str(codec_folder))).fingerprint == (
        first.fingerprint
    )
    assert AudioTokenizer("cpu", str(codec_folder), 3.0).fingerprint != first.fingerprint
    make_codec(tmp_path, num_filters=2)
    assert AudioTokenizer("cpu", str(tmp_path), 1.5).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.full((3, 2), 1024), "token 1024 is out of range"),
        (torch.tensor([[3, -1]]), "token -1 is out of range"),
        (torch.zeros(3, 4), "2 codebooks"),
        (torch.zeros(6), "2 codebooks"),
    ],
)
def test_tokens_of_something_else_are_refused(tokenizer, codes, words):
    with pytest.raises(UserError, match=words):
        tokenizer.decode([codes.short()])
    with pytest.raises(UserError, match=words):
        list(tokenizer.decode_stream([codes.short()]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"audio_channels": 2}, "2 channels"),
        ({"normalize": True, "chunk_length_s": 1.0, "overlap": 0.01}, "normalises"),
        ({"use_causal_conv": False, "norm_type": "time_group_norm"}, "the past only"),
        ({"pad_mode": "constant"}, "reflect is needed"),
    ],
)
def test_another_kind_of_encodec_is_refused(tmp_path, settings, words):
    make_codec(tmp_path, **settings)
    with pytest.raises(UserError, match=words):
        AudioTokenizer("cpu", str(tmp_path))


def test_what_is_no_encodec_is_refused(tmp_path, codec_folder):
    with pytest.raises(UserError, match=r"codec source .* holds no config\.json"):
        AudioTokenizer("cpu", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wavlm"}))
    with pytest.raises(UserError, match="is of type wavlm, and an encodec is needed"):
        AudioTokenizer("cpu", str(tmp_path))
    (tmp_path / "config.json").write_bytes((codec_folder / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        AudioTokenizer("cpu", str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be loaded"):
        AudioTokenizer("cpu", str(tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path, codec_folder):
    settings = json.loads((codec_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_lstm_layers": 2}))
    (tmp_path / "model.safetensors").symlink_to(codec_folder / "model.safetensors")
    with pytest.raises(UserError, match="lacks weights"):
        AudioTokenizer("cpu", str(tmp_path))


def test_a_bandwidth_that_is_not_offered_is_refused(codec_folder):
    with pytest.raises(UserError, match=r"bandwidth=6 is not offered .* 1\.5, 3 kb/s"):
        AudioTokenizer("cpu", str(codec_folder), 6.0)
