"""A token text-to-speech model speaks as a backend, each text by its own seed."""

import numpy as np
import pytest
from tiny_tts import RATE

from open_miipher.base.errors import UserError
from open_miipher.synthesis.tts_processor import TTSProcessor, attempt, fingerprint

TEXTS, SEEDS = ["abc", "hgfedcb", "ad"], [2**62, 5, 9]


def test_a_text_sounds_in_a_batch_as_it_does_alone(run):
    speaker = TTSProcessor("cpu", "token_tts", str(run))
    assert speaker.sample_rate == RATE
    assert speaker.fingerprint == fingerprint("token_tts", str(run))
    batch = speaker.speak(TEXTS, SEEDS)
    for text, seed, sound in zip(TEXTS, SEEDS, batch, strict=True):
        (alone,) = speaker.speak([text], [seed])
        assert sound.shape == alone.shape
        np.testing.assert_allclose(sound, alone, atol=1e-5)
    assert not np.array_equal(*(speaker.speak(["abc"], [seed])[0] for seed in (1, 2)))


def test_a_text_that_it_cannot_say_fails_alone(run):
    speaker = TTSProcessor("cpu", "token_tts", str(run))
    sounds = attempt(speaker.speak, ["abc", "abcdefgabc", "hg"], [1, 2, 3])
    assert [isinstance(sound, str) for sound in sounds] == [False, True, False]
    assert "more than 9" in sounds[1]


def test_a_voice_is_refused(run):
    with pytest.raises(UserError, match=r"tts.voice=2: a token_tts model has one voice"):
        TTSProcessor("cpu", "token_tts", str(run), 2)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing"):
        TTSProcessor("cpu", "token_tts", str(tmp_path / "nothing"))
