"""Backends that speak: VITS in batches with seeds, WhisperSpeech's interface, espeak-ng."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from open_miipher.base.errors import UserError
from open_miipher.synthesis.seeded import seeded_noise
from open_miipher.synthesis.tts_processor import TTSProcessor, fingerprint

TEXTS = ["a short one", "the longest of all these texts that are spoken here", "and another one"]


@pytest.fixture(scope="module")
def vits(tmp_path_factory) -> Path:
    """A small VITS of random weights that speaks a letter for about 0.08 s."""
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder = tmp_path_factory.mktemp("vits")
    vocabulary = {letter: number for number, letter in enumerate("_ abcdefghijklmnopqrstuvwxyz")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = VitsTokenizer(
        str(folder / "vocab.json"), pad_token="_", unk_token="_", phonemize=False, add_blank=True
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=16, flow_size=16, spectrogram_bins=9, prior_encoder_num_flows=2,
        prior_encoder_num_wavenet_layers=2, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_filter_channels=16, upsample_initial_channel=16,
        upsample_rates=[8, 8], upsample_kernel_sizes=[16, 16], num_speakers=2,
        speaker_embedding_size=4, sampling_rate=16000, speaking_rate=0.01,
    )  # fmt: skip
    VitsModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speaker(vits) -> TTSProcessor:
    return TTSProcessor("cpu", "transformers", str(vits), 1)


def test_a_text_sounds_in_a_batch_as_it_does_alone_but_for_its_end(speaker):
    batch = speaker.speak(TEXTS, [3, 4, 5])
    tail = 13 * 64  # frames that the decoder sees to both sides; 0.2 s of VITS's own 256 samples
    for text, seed, sound in zip(TEXTS, [3, 4, 5], batch, strict=True):
        (alone,) = speaker.speak([text], [seed])
        assert sound.shape == alone.shape
        assert len(sound) > 2 * tail
        np.testing.assert_allclose(sound[:-tail], alone[:-tail], atol=1e-4)
    longest = int(np.argmax([len(sound) for sound in batch]))
    (alone,) = speaker.speak([TEXTS[longest]], [3 + longest])
    np.testing.assert_allclose(batch[longest], alone, atol=1e-4)


def test_a_seed_gives_the_same_sound_again_and_another_seed_another(speaker):
    (first,), (again,), (other,) = (speaker.speak(TEXTS[:1], [seed]) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert len(first) != len(other) or np.abs(first - other).max() > 1e-3


def test_no_texts_give_no_sounds(speaker):
    assert speaker.speak([]) == []


def test_noise_by_seed_depends_neither_on_the_batch_nor_on_the_padding():
    with seeded_noise([1, 2]):
        both = torch.randn(2, 3, 10), torch.randn_like(torch.empty(2, 3, 10, dtype=torch.float64))
    with seeded_noise([2]):
        alone = torch.randn((1, 3, 25)), torch.randn_like(torch.empty(1, 3, 25))
    assert torch.equal(both[0][1], alone[0][0, :, :10])
    assert both[1].dtype == torch.float64
    assert torch.equal(both[1][1].float(), alone[1][0, :, :10])
    drawn = torch.cat([both[0].flatten(), both[1].flatten().float()])
    assert len(drawn.unique()) == len(drawn)
    assert abs(torch.cat([alone[0], alone[1]]).std() - 1) < 0.2


def test_another_voice_or_other_weights_are_another_fingerprint(vits, tmp_path):
    found = fingerprint("transformers", str(vits), 1)
    assert found != fingerprint("transformers", str(vits), 0)
    shutil.copytree(vits, tmp_path / "vits")
    assert fingerprint("transformers", str(tmp_path / "vits"), 1) == found
    from safetensors.torch import load_file, save_file

    weights = load_file(vits / "model.safetensors")
    weights["embed_speaker.weight"] += 1
    save_file(weights, tmp_path / "vits/model.safetensors")
    assert fingerprint("transformers", str(tmp_path / "vits"), 1) != found


@pytest.mark.parametrize(
    ("backend", "model", "voice", "sentence"),
    [
        ("festival", None, None, "choose one of transformers, whisperspeech, token_tts, espeak"),
        ("transformers", "VITS", 2, "has 2 speakers; give a number, 0 … 1"),
        ("transformers", "VITS", "bob", "give a number"),
        ("transformers", "CODEC", None, "is of type encodec; tts.backend=transformers speaks with"),
        ("transformers", "/nowhere/vits", None, "speech source /nowhere/vits is no folder here"),
        ("whisperspeech", None, None, r"pip install '\.\[whisperspeech\]'"),
        ("token_tts", None, None, "needs tts.model"),
    ],
)
def test_what_is_missing_or_unfit_is_told_in_a_sentence(
    vits, tmp_path, backend, model, voice, sentence
):
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    places = {"VITS": str(vits), "CODEC": str(tmp_path)}
    with pytest.raises(UserError, match=sentence):
        TTSProcessor("cpu", backend, places.get(model, model), voice)


def test_a_vits_that_speaks_phonemes_names_the_package_it_needs(vits, tmp_path):
    shutil.copytree(vits, tmp_path / "vits")
    settings = json.loads((tmp_path / "vits/tokenizer_config.json").read_text())
    settings["phonemize"] = True
    (tmp_path / "vits/tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="pip install phonemizer"):
        TTSProcessor("cpu", "transformers", str(tmp_path / "vits"))


STAND_IN = """
import torch
class Pipeline:
    def __init__(self, s2a_ref=None):
        self.ref, self.t2s = s2a_ref, "there"
        if "broken" not in s2a_ref:
            self.s2a = "there"
    def generate(self, text, speaker=None):
        return torch.randn(1, 100 * len(text)) + (0 if speaker is None else len(speaker))
"""


@pytest.fixture
def whisperspeech(tmp_path, monkeypatch) -> None:
    """What the package of that name gives us, and no more."""
    package, about = tmp_path / "whisperspeech", tmp_path / "whisperspeech-0.8.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").touch()
    (package / "pipeline.py").write_text(STAND_IN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: whisperspeech\nVersion: 0.8\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("whisperspeech")]:
        del sys.modules[name]


@pytest.mark.usefixtures("whisperspeech")
def test_whisperspeech_is_loaded_by_name_and_seeded_by_text():
    speaker = TTSProcessor("cpu", "whisperspeech", voice="speaker.wav")
    assert speaker.sample_rate == 24000
    assert speaker.fingerprint.startswith("whisperspeech 0.8 collabora/whisperspeech")
    one, two = speaker.speak(["abc", "abcde"], [1, 2])
    assert (one.shape, two.shape) == ((300,), (500,))
    assert one.dtype == np.float32
    assert one.mean() == pytest.approx(len("speaker.wav"), abs=0.5)
    assert np.array_equal(speaker.speak(["abcde"], [2])[0], two)
    with pytest.raises(UserError, match="could not load broken; see above"):
        TTSProcessor("cpu", "whisperspeech", "broken")


needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="needs espeak-ng (apt-get install espeak-ng)"
)


@needs_espeak
def test_espeak_speaks_longer_texts_longer_and_always_alike():
    speaker = TTSProcessor("cpu", "espeak")
    short, long = speaker.speak(["Yes.", "This is a sentence with many more words."], [1, 2])
    assert speaker.sample_rate == 22050
    assert 0.2 < len(short) / 22050 < 1.5 < len(long) / 22050 < 6
    assert 0.05 < np.abs(long).max() <= 1
    assert np.array_equal(speaker.speak(["Yes."], [5])[0], short)


@needs_espeak
def test_a_voice_or_a_model_that_espeak_has_not_is_told_before_any_worker_starts():
    with pytest.raises(UserError, match=r"(?s)tts.voice=martian: .*espeak-ng --voices"):
        fingerprint("espeak", voice="martian")
    with pytest.raises(UserError, match=r"tts.model=large: tts.backend=espeak has no models"):
        fingerprint("espeak", "large")


def test_a_missing_espeak_is_told_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"apt-get install espeak-ng.*Debian's package"):
        TTSProcessor("cpu", "espeak")
