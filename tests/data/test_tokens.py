"""Tokens of speech with texts: what is used, made, left out, found again, and refused."""

import dataclasses
import json
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_tts import LETTER_SAMPLES, RATE, make_speech, say

from open_miipher.base.errors import UserError
from open_miipher.codec import AudioTokenizer, CodecConfig
from open_miipher.data import Tokens, TokensConfig, train_batches
from open_miipher.data.config import HeldOutTexts, SpokenTexts
from open_miipher.data.token_store import TokenStore
from open_miipher.distributed import World
from open_miipher.index import Entry, write_index

WORLD = World(0, 1, torch.device("cpu"))
SAID: list[str] = []


def config(spoken: Path, *train: Path, **changes) -> TokensConfig:
    plain = TokensConfig(
        codec=CodecConfig(str(spoken / "codec")),
        seconds=0.8,
        augmentation_factor=1,
        train=SpokenTexts([str(root) for root in train or (spoken / "train",)]),
    )
    return dataclasses.replace(plain, **changes)


def made(own: TokensConfig, folder: Path) -> Tokens:
    source = Tokens(own)
    source.make(folder, WORLD, SAID.append)
    return source


def samples(data) -> list[tuple[bytes, np.ndarray]]:
    found = [data[position] for position in range(data.num_items)]
    return sorted((bytes(f.text[:-1].astype(np.uint8) - 3), f.codes.tobytes()) for f in found)


def test_every_file_gives_its_text_and_the_codes_of_the_codec(spoken, tmp_path):
    data = made(config(spoken), tmp_path).train(seed=0)
    assert data.num_items == 10
    assert data.described == "10 utterances, 3.6 s"
    tokenizer = AudioTokenizer("cpu", str(spoken / "codec"))
    seen = {}
    for position in range(10):
        sample = data[position]
        name = re.fullmatch(r"train/(\d+\.wav) epoch 0 index \d+", sample.name)[1]
        text = bytes(sample.text[:-1].astype(np.uint8) - 3).decode()
        waveform, _ = soundfile.read(spoken / "train" / name, dtype="float32")
        assert len(waveform) == len(say(text))
        assert np.abs(waveform - say(text)).max() < 1e-4
        lengths = torch.tensor([len(waveform)])
        [codes] = tokenizer.encode(torch.from_numpy(waveform)[None], lengths)
        assert np.array_equal(codes.numpy(), sample.codes)
        assert sample.text[-1] == 1
        seen[name] = text
    assert len(seen) == 10
    assert [len(data[10 + k].codes) for k in range(10)] != [len(data[k].codes) for k in range(10)]


def test_copies_have_noise_and_are_the_same_each_time(spoken, tmp_path):
    noisy = config(spoken, augmentation_factor=3, augmentation_sigma=0.05)
    data = made(noisy, tmp_path / "a").train(seed=0)
    assert data.num_items == 30
    assert data.described.endswith(", each 3 times")
    clean = made(config(spoken), tmp_path / "b").train(seed=0)
    for number in range(10):
        copies = [data.store.codes(3 * number + k) for k in range(3)]
        assert np.array_equal(copies[0], clean.store.codes(number))
        assert not np.array_equal(copies[0], copies[1])
        assert not np.array_equal(copies[1], copies[2])
    again = made(noisy, tmp_path / "c").train(seed=0)
    assert samples(again) == samples(data)
    other = dataclasses.replace(noisy, augmentation_seed=1)
    assert samples(made(other, tmp_path / "d").train(seed=0)) != samples(data)


def test_tokens_are_made_once_for_all_that_they_depend_on(spoken, tmp_path, monkeypatch):
    train = shutil.copytree(spoken / "train", tmp_path / "train")
    own = config(spoken, train)
    first = made(own, tmp_path / "run").train(seed=0)
    with monkeypatch.context() as patched:
        patched.setattr(AudioTokenizer, "encode", None)
        assert made(own, tmp_path / "run").train(seed=5).fingerprint == first.fingerprint
    folders = {first.fingerprint}
    changes = [
        {"seconds": 0.6},
        {"augmentation_factor": 2},
        {"augmentation_factor": 2, "augmentation_sigma": 1e-3},
        {"augmentation_factor": 2, "augmentation_seed": 1},
        {"codec": CodecConfig(str(spoken / "codec"), 3.0)},
        {"long_text": "keep"},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for change in changes:
            changed = dataclasses.replace(own, **change)
            folders.add(made(changed, tmp_path / "run").train(seed=0).fingerprint)
    index = train / "metadata.csv"
    index.write_text(index.read_text().replace("text\n", "text\n", 1)[:-2] + "z\n")
    folders.add(made(own, tmp_path / "run").train(seed=0).fingerprint)
    assert len(folders) == 8
    assert {p.name for p in (tmp_path / "run/tokens").iterdir()} == folders
    elsewhere = dataclasses.replace(own, tokens_dir=str(tmp_path / "shared"))
    made(elsewhere, tmp_path / "other")
    assert len(list((tmp_path / "shared").iterdir())) == 1
    assert not (tmp_path / "other").exists()


def test_other_sounds_of_the_same_names_lengths_and_texts_get_tokens_of_their_own(spoken, tmp_path):
    """A clean and a restored corpus in one data.tokens_dir; and one whose sound was replaced."""
    shared = str(tmp_path / "shared")
    roots = [shutil.copytree(spoken / "train", tmp_path / name / "train") for name in "ab"]
    for path in roots[1].glob("*.wav"):  # as an archive that keeps times unpacks it
        waveform, _ = soundfile.read(path)
        time = path.stat().st_mtime_ns
        soundfile.write(path, 0.1 * waveform[::-1], RATE)
        os.utime(path, ns=(time, time))
    owns = [config(spoken, root, tokens_dir=shared) for root in roots]
    found = [samples(made(own, tmp_path).train(seed=0)) for own in owns]
    assert found[0] != found[1]
    for path in roots[0].glob("*.wav"):
        shutil.copyfile(roots[1] / path.name, path)
    assert samples(made(owns[0], tmp_path).train(seed=0)) == found[1]
    assert len(list((tmp_path / "shared").iterdir())) == 3


def test_a_making_that_was_killed_is_taken_up_again(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr("open_miipher.data.token_store._PART", 3)
    whole = made(config(spoken), tmp_path / "whole").train(seed=0)
    encode, calls = AudioTokenizer.encode, []

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, *arguments)

    monkeypatch.setattr(AudioTokenizer, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        made(config(spoken), tmp_path / "broken")
    [folder] = (tmp_path / "broken/tokens").iterdir()
    assert len(list(folder.glob("parts/*.npz"))) == 2
    (folder / "parts/.000002.npz.123.tmp").write_bytes(b"half")
    data = made(config(spoken), tmp_path / "broken").train(seed=0)
    assert len(calls) == 3 + 2  # the third again, and the fourth
    assert samples(data) == samples(whole)
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
        *("code_ends.npy", "codes.npy", "done.json", "identity.json", "name_ends.npy"),
        *("names.npy", "text_ends.npy", "texts.npy"),
    ]


def test_batches_are_padded_and_say_how_long_each_is(spoken, tmp_path):
    data = made(config(spoken), tmp_path).train(seed=0)
    batch = next(train_batches(data, 0, 4))
    for k, position in enumerate(batch.positions.tolist()):
        sample = data[position]
        assert batch.text_lengths[k] == len(sample.text)
        assert batch.code_lengths[k] == len(sample.codes)
        assert batch.text[k, : len(sample.text)].tolist() == sample.text.tolist()
        assert batch.codes[k, : len(sample.codes)].tolist() == sample.codes.tolist()
        assert not batch.text[k, len(sample.text) :].any()
        assert not batch.codes[k, len(sample.codes) :].any()
    assert batch.codes.dtype == batch.text.dtype == torch.int64


def test_a_text_labels_the_audio_that_it_stands_beside(spoken, tmp_path):
    """By default a file that is too long is left out; its text would say more than it holds."""
    root = make_speech(tmp_path / "speech", ["abc", "abcdefghabcdefgh", "", "gfe"])
    with pytest.warns(UserWarning, match="left out") as told:
        data = made(config(spoken, root), tmp_path / "drop").train(seed=0)
    said = sorted(str(warning.message) for warning in told)
    assert said == [
        "1 of 4 files of data.train.dir_list are longer than data.seconds=0.8: they are left out",
        "1 of 4 files of data.train.dir_list have no text: they are left out",
    ]
    assert [text for text, _ in samples(data)] == [b"abc", b"gfe"]
    with pytest.warns(UserWarning, match="have no text"):
        kept = made(config(spoken, root, long_text="keep"), tmp_path / "keep").train(seed=0)
    assert [len(codes) // 4 for _, codes in samples(kept)] == [15, 60, 15]
    assert samples(kept)[1][0] == b"abcdefghabcdefgh"


def test_a_text_of_which_nothing_is_left_is_not_called_too_long(spoken, tmp_path, monkeypatch):
    empty_a = lambda text, _: text.replace("a", "")  # noqa: E731
    monkeypatch.setattr("open_miipher.data.token_store.normalised", empty_a)
    root = make_speech(tmp_path / "speech", ["aa", "abc", "a", "cdefg"])
    words = (
        "2 files of data.train.dir_list cannot be learned from: the text is empty: they are left",
        "1 files of data.train.dir_list have a text of more than data.max_text_bytes=4: they are",
    )
    with pytest.warns(UserWarning, match="left out") as told:
        data = made(config(spoken, root, max_text_bytes=4), tmp_path / "run").train(seed=0)
    assert [text for text, _ in samples(data)] == [b"bc"]
    said = sorted(str(warning.message) for warning in told)
    for line, start in zip(said, sorted(words), strict=True):
        assert line.startswith(start)


def test_long_speech_is_cut_where_a_pause_stands_at_a_mark(spoken, tmp_path):
    """The second has a pause and no mark, the third a mark and hardly a pause."""
    texts = ["abcdefg,  efghabcd", "abcdefg   efghabcd", "abcdefgh, abcdefgha"]
    texts.append("abcdefgh.  abcdabcdabcd")
    root = make_speech(tmp_path / "speech", texts)
    own = config(spoken, root, long_text="cut_at_pause")
    with pytest.warns(UserWarning, match="2 files of .* have no pause where their text has a mark"):
        data = made(own, tmp_path / "run").train(seed=0)
    found = samples(data)
    assert [text for text, _ in found] == [b"abcdefg,", b"abcdefgh."]
    letters = [len(codes) / 4 / (LETTER_SAMPLES / 320) for _, codes in found]
    assert letters == pytest.approx([8.5, 9.5], abs=0.4)


def test_validation_has_utterances_from_the_whole_index_without_noise(spoken, tmp_path):
    held_out = HeldOutTexts([str(spoken / "test")], num_clips=2)
    source = made(config(spoken, test=held_out, augmentation_factor=4), tmp_path)
    data = source.validation(seed=0)
    assert (data.num_items, data.store.num_copies) == (2, 1)
    assert [data[k].name.split()[0] for k in range(2)] == ["test/000.wav", "test/002.wav"]
    assert made(config(spoken), tmp_path / "none").validation(seed=0) is None
    same = HeldOutTexts([str(spoken / "train")])
    with pytest.warns(UserWarning, match="validation will not show overfitting"):
        made(config(spoken, test=same), tmp_path)


def test_files_that_cannot_be_read_are_left_out_up_to_a_share(spoken, tmp_path):
    root = make_speech(tmp_path / "speech", ["abc", "abd", "abe", "abf"])
    waveform = say("abd")
    waveform[2000] = np.nan
    soundfile.write(root / "001.wav", waveform, RATE, subtype="FLOAT")
    own = config(spoken, root, max_broken_samples=0.25)
    with pytest.warns(UserWarning, match="1 files of data.train.dir_list cannot be read"):
        data = made(own, tmp_path / "run").train(seed=0)
    assert [text for text, _ in samples(data)] == [b"abc", b"abe", b"abf"]
    strict = dataclasses.replace(own, max_broken_samples=0.0)
    with pytest.raises(UserError, match=r"1 of 4 files cannot be read, more than .*001\.wav"):
        made(strict, tmp_path / "strict")
    soundfile.write(root / "001.wav", say("abd"), RATE)  # mended, and started again
    assert made(strict, tmp_path / "strict").train(seed=0).num_items == 4


def test_what_one_run_allows_to_be_broken_another_may_refuse_and_mended_files_come_back(
    spoken, tmp_path
):
    root = make_speech(tmp_path / "speech", ["abc", "abd", "abe", "abf"])
    good = (root / "001.wav").read_bytes()
    waveform = say("abd")
    waveform[2000] = np.nan
    soundfile.write(root / "001.wav", waveform, RATE, subtype="FLOAT")
    lax = config(spoken, root, max_broken_samples=0.25)
    with pytest.warns(UserWarning, match="1 files of data.train.dir_list cannot be read"):
        assert made(lax, tmp_path).train(seed=0).num_items == 3
    strict = dataclasses.replace(lax, max_broken_samples=0.0)
    with pytest.raises(UserError, match=r"1 of 4 files cannot .*=0\.0 \(mend .*001\.wav"):
        made(strict, tmp_path)
    (root / "001.wav").write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(lax, tmp_path).train(seed=0).num_items == 4
    assert made(strict, tmp_path).train(seed=0).num_items == 4


@pytest.mark.slow
def test_memory_does_not_grow_over_100_000_utterances(tmp_path):
    """What is not of a file's pages, which any process may drop."""
    folder, number, frames = tmp_path / "tokens", 100_000, 20
    folder.mkdir()
    ends = np.arange(1, number + 1)
    np.save(folder / "codes.npy", np.zeros((number * frames, 2), np.int16))
    np.save(folder / "code_ends.npy", ends * frames)
    for name, size in (("text", 30), ("name", 10)):
        np.save(folder / f"{name}s.npy", np.full(number * size, 97, np.uint8))
        np.save(folder / f"{name}_ends.npy", ends * size)
    about = {"utterances": number, "copies": 1, "seconds": 1.0, "longest_text": 30, "left_out": {}}
    about["broken"] = []
    (folder / "done.json").write_text(json.dumps(about))
    from open_miipher.data.order import Order
    from open_miipher.data.tokens import TokenDataset

    data = TokenDataset(TokenStore(folder), Order(number, 0), 0.0)

    def own_memory() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])

    def read(start: int, end: int) -> None:
        for first in range(start, end, 100):
            data.collate([(p, data[p]) for p in range(first, first + 100)])

    read(0, 5000)
    before = own_memory()
    read(5000, number)
    assert own_memory() - before < 4000
    assert len(pickle.dumps(data)) < 1000  # a worker maps it anew


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0.0}, r"data\.seconds must lie within"),
        ({"augmentation_factor": 0}, r"data\.augmentation_factor must be at least 1"),
        ({"normalize_text": "xx"}, r"data\.normalize_text=xx is no language of num2words: .* en,"),
        ({"codec": CodecConfig("/nowhere/at/all")}, "codec source /nowhere/at/all"),
        ({"train": SpokenTexts([])}, "data.train.dir_list is empty"),
        ({"seconds": 0.15}, r"no file of data\.train\.dir_list can be used: .* 10 are longer"),
        ({"max_text_bytes": 2}, r"no utterance is left: 10 have a text of more than"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(changes, words, spoken, tmp_path):
    with pytest.raises(UserError, match=words):
        made(config(spoken, **changes), tmp_path)


def test_an_index_without_texts_is_refused_with_the_mend(spoken, tmp_path):
    root = make_speech(tmp_path / "speech", ["abc"])
    write_index(root, [Entry("000.wav", RATE, len(say("abc")), 1, {"speaker": "x"})])
    with pytest.raises(UserError, match=r"has no column text .* --ljspeech-texts, or --merge-colu"):
        made(config(spoken, root), tmp_path)


@pytest.mark.parametrize("name", ["codes.npy", "done.json"])
def test_damaged_tokens_are_refused_with_their_folder(spoken, tmp_path, name):
    store = made(config(spoken), tmp_path).train(seed=0).store
    file = store.folder / name
    file.write_bytes(b"{}" if name == "done.json" else file.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"the tokens in {store.folder} are damaged"):
        made(config(spoken), tmp_path)
