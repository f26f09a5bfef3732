"""Words and what is wrong with them, on texts and recordings whose answers are known."""

import sys

import numpy as np
import pytest
from speech import voice

from open_miipher.base.errors import UserError
from open_miipher.evaluation.measures import MEASURES, CannotMeasureError, Settings, Signal
from open_miipher.evaluation.words import edit_distance, error_rates, load_hearing, normalise


def test_words_are_compared_without_case_and_punctuation():
    assert normalise("  It\u2019s  Tom's \u2018dog\u2019 \u2013 re-done, 'twas 42!") == (
        "it's tom's dog re done twas 42"
    )
    assert normalise("\u00c9t\u00e9 \u2026 STRASSE \ufb01n") == "\u00e9t\u00e9 strasse fin"
    assert (
        normalise("\u0915\u094d\u092f\u093e \u0964") == "\u0915\u094d\u092f\u093e"
        # Marks belong to their letters.
    )
    assert normalise(" ?! - ' ") == ""


@pytest.mark.parametrize(
    ("wanted", "given", "distance"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("intention", "execution", 5),
        ("abc", "cab", 2),
    ],
)
def test_the_edit_distance_of_known_pairs(wanted, given, distance):
    assert edit_distance(wanted, given) == distance
    assert edit_distance(given, wanted) == distance


def test_error_rates_are_shares_of_what_is_said():
    assert error_rates("the cat sat", "The cat sat.") == (0, 0)
    assert error_rates("the cat sat", "the hat sat down") == pytest.approx((2 / 3, 5 / 9))
    assert error_rates("one two", "") == (1, 1)
    assert error_rates("one", "one one one")[0] == 2
    assert error_rates("...", "words") is None


def test_a_recording_that_says_nothing_has_all_words_wrong(monkeypatch):
    monkeypatch.setattr("open_miipher.evaluation.measures.load_hearing", _echo)
    measure = MEASURES["words"].load(Settings(words="pocketsphinx"))
    signal = Signal(voice(0, 1.0, 16000), 16000, "heard it all")
    assert measure(signal, None) == {"word_error_rate": 0, "character_error_rate": 0}
    with pytest.raises(CannotMeasureError, match="its text has no words"):
        measure(Signal(signal.waveform, 16000, "?"), None)
    with pytest.raises(UserError, match="give --words"):
        MEASURES["words"].load(Settings())


def _echo(name):
    return lambda waveform, sample_rate: "Heard it all."


def test_silence_and_a_sample_have_no_words_and_the_order_of_recordings_does_not_matter():
    pytest.importorskip("pocketsphinx")
    hear = load_hearing("pocketsphinx")
    assert hear(np.zeros(16000, np.float32), 16000) == ""
    assert hear(np.ones(1, np.float32), 16000) == ""
    speech = voice(1, 1.5)
    first = hear(speech, 24000)
    hear(np.random.default_rng(0).standard_normal(16000).astype(np.float32), 16000)
    assert hear(speech, 24000) == first


def test_without_its_package_the_offline_recogniser_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ImportError):
        load_hearing("pocketsphinx")


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory):
    """A CTC model of a hundred weights, with random ones."""
    import json

    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    folder = tmp_path_factory.mktemp("ctc")
    tokens = {"<pad>": 0, "|": 1, **{letter: n for n, letter in enumerate("ABCDE", start=2)}}
    (folder / "vocab.json").write_text(json.dumps(tokens | {"<unk>": 7, "<s>": 8, "</s>": 9}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(20, 8),
        conv_kernel=(40, 16),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def test_a_ctc_model_hears_what_transformers_says_it_does(ctc_folder):
    from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2ForCTC

    waveform = voice(2, 2.0, 8000)
    extractor = AutoFeatureExtractor.from_pretrained(ctc_folder)
    logits = (
        Wav2Vec2ForCTC.from_pretrained(ctc_folder)
        .eval()(**extractor(waveform, sampling_rate=8000, return_tensors="pt"))
        .logits
    )
    expected = AutoTokenizer.from_pretrained(ctc_folder).batch_decode(logits.argmax(-1))[0]
    hear = load_hearing(str(ctc_folder))
    assert hear(waveform, 8000) == expected != ""
    assert len(hear(np.tile(waveform, 20), 8000).split()) >= 1  # 40 s: in two pieces


def test_a_folder_without_a_ctc_model_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is no folder: give that of a CTC model, or pocketsphinx"):
        load_hearing(str(tmp_path / "none"))
    with pytest.raises(UserError, match="holds no CTC model of transformers"):
        load_hearing(str(tmp_path))
