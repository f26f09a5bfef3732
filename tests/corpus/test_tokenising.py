"""Corpora to shards of tokens: what is in them, what fails, and what is done again."""

import io
import json

import numpy as np
import pytest
import torch
from speech import voice, write_wav
from tiny_codec import make_codec

from open_miipher.base.errors import UserError
from open_miipher.codec import AudioTokenizer
from open_miipher.corpus import tokenising
from open_miipher.corpus.ledger import Ledger
from open_miipher.corpus.recordings import Indexed, Manifest
from open_miipher.corpus.run import run
from open_miipher.corpus.status import survey
from open_miipher.corpus.tars import Groups, TarShards
from open_miipher.corpus.tokenising import Tokenise
from open_miipher.corpus.verify import verify
from open_miipher.shards import Sample, ShardError, ShardWriter, Storage, read_tokens

SECONDS = {"a/one.wav": 1.0, "a/two.wav": 0.3, "b/three.wav": 2.01, "four.wav": 0.013}


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    make_codec(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(codec_folder):
    return AudioTokenizer("cpu", str(codec_folder), 1.5)


@pytest.fixture
def speech(tmp_path):
    for number, (name, seconds) in enumerate(SECONDS.items()):
        write_wav(tmp_path / "speech" / name, voice(number, seconds), 24000)
    return tmp_path / "speech"


@pytest.fixture
def tokenise(alone, tmp_path, tokenizer):
    """Tokenise into one folder; gives the summary."""
    folder = tmp_path / "tokens"

    def make(inputs, overwrite=False, codec=tokenizer, batch_seconds=1.0):
        inputs.check(folder)
        return run(Tokenise(codec, inputs, folder, batch_seconds), folder, alone, overwrite)

    make.folder = folder
    return make


def groups(folder, size=3):
    return Groups(Indexed(folder), size, "tokens-")


def read(folder, codec=None):
    """Return all tokens of all shards by name."""
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        with path.open("rb") as file:
            found |= {tokens.name: tokens for tokens in read_tokens(file, str(path), codec)}
    return found


def test_every_file_becomes_the_tokens_that_it_has_alone(speech, tokenise, tokenizer):
    summary = tokenise(groups(speech))
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (2, 0, 0)
    found = read(tokenise.folder, tokenizer.fingerprint)
    assert found.keys() == {"a/one", "a/two", "b/three", "four"}
    for name, seconds in SECONDS.items():
        tokens = found[name.removesuffix(".wav")]
        waveform = torch.from_numpy(_stored(voice(list(SECONDS).index(name), seconds)))
        (expected,) = tokenizer.encode(waveform[None], torch.tensor([len(waveform)]))
        assert tokens.codes.dtype == np.uint16
        assert np.array_equal(tokens.codes, expected.numpy())
        assert tokens.about["file"] == name
        assert tokens.about["num_samples"] == len(waveform)
        assert tokens.about["seconds"] == pytest.approx(seconds)
        assert (tokens.about["bandwidth"], tokens.about["sample_rate"]) == (1.5, 24000)
    assert sum(len(t.codes) for t in found.values()) == 75 + 23 + 151 + 1


def _stored(waveform):
    """What a 16-bit file gives back."""
    return ((waveform.clip(-1, 1) * 32767).astype("<i2") / 32768).astype(np.float32)


def test_the_index_gives_the_text(speech, tokenise):
    lines = ["file_path,text,speaker", 'a/one.wav,"Happy, here.",ann', "four.wav,,bo"]
    (speech / "metadata.csv").write_text("\n".join(lines) + "\n")
    tokenise(groups(speech))
    about = {name: tokens.about for name, tokens in read(tokenise.folder).items()}
    assert (about["a/one"]["text"], about["a/one"]["speaker"]) == ("Happy, here.", "ann")
    assert "text" not in about["a/two"]
    manifest = (tokenise.folder / "manifest.jsonl").read_text().splitlines()
    rows = {row["input"]: row for row in map(json.loads, manifest)}
    assert rows["a/one.wav"]["text"] == "Happy, here."
    assert rows["a/one.wav"]["tokens_filepath"] == "a/one.npy"
    assert rows["b/three.wav"]["num_frames"] == 151


def test_another_text_has_its_shard_made_again(speech, tokenise):
    index = speech / "metadata.csv"
    index.write_text("file_path,text\na/one.wav,first\n")
    tokenise(groups(speech))
    assert tokenise(groups(speech)).num_done == 0
    index.write_text("file_path,text\na/one.wav,second\n")
    assert tokenise(groups(speech)).num_done == 1
    assert read(tokenise.folder)["a/one"].about["text"] == "second"


def test_other_rates_and_channels_come_at_the_codecs(tmp_path, tokenise, tokenizer):
    import soundfile

    wave = voice(5, 1.0, 48000)
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech/x.wav", np.stack([wave, wave], 1), 48000, "FLOAT")
    tokenise(groups(tmp_path / "speech"))
    tokens = read(tokenise.folder)["x"]
    assert (tokens.about["num_samples"], len(tokens.codes)) == (24000, 75)


def test_a_long_file_is_tokenised_piece_by_piece(tmp_path, tokenise, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenising, "_WHOLE_SECONDS", 1.0)
    write_wav(tmp_path / "speech/long.wav", voice(1, 5.0), 24000)
    write_wav(tmp_path / "speech/short.wav", voice(2, 0.5), 24000)
    tokenise(groups(tmp_path / "speech"))
    found = read(tokenise.folder)
    waveform = torch.from_numpy(_stored(voice(1, 5.0)))
    (expected,) = tokenizer.encode(waveform[None], torch.tensor([len(waveform)]))
    assert np.array_equal(found["long"].codes, expected.numpy())
    assert len(found["short"].codes) == 38


def test_a_manifest_gives_segments(speech, tokenise):
    lines = [
        {"audio_filepath": "b/three.wav", "offset": 0.5, "duration": 1.0, "text": "inside"},
        {"audio_filepath": "a/one.wav", "speaker": 3},
    ]
    path = speech / "segments.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenise(Groups(Manifest(path), 10, "tokens-"))
    by_file = {t.about["file"]: t for t in read(tokenise.folder).values()}
    assert by_file["a/one.wav"].about["speaker"] == 3
    (segment,) = (t for t in by_file.values() if t.about.get("text") == "inside")
    assert (len(segment.codes), segment.about["input_offset"]) == (75, 0.5)


def test_shards_keep_keys_and_other_members(tmp_path, speech, tokenise):
    audio = (speech / "a/one.wav").read_bytes()
    (tmp_path / "in").mkdir()
    with ShardWriter(tmp_path / "in/000.tar") as writer:
        writer.add(Sample("x", {"wav": audio, "txt": b"hello", "json": b'{"speaker": 7}'}))
        writer.add(Sample("y", {"clean.wav": audio, "noisy.wav": audio}))
        writer.add(Sample("z", {"wav": b"no sound", "txt": b"lost"}))
    summary = tokenise(TarShards([str(tmp_path / "in/000.tar")], Storage()))
    assert summary.exit_code == 3
    found = read(tokenise.folder)
    assert found.keys() == {"x", "y.clean", "y.noisy"}
    assert found["x"].about["speaker"] == 7
    with (tokenise.folder / "000.tar").open("rb") as file:
        content = file.read()
    assert b"hello" in content
    assert b"lost" not in content
    seen = survey(Ledger(tokenise.folder))
    assert (seen.samples.num_made, seen.samples.num_failed) == (2, 1)


def test_a_bad_file_is_a_failed_row_and_the_others_are_made(speech, tokenise):
    (speech / "a/bad.wav").write_bytes(b"RIFF nothing of the kind")
    whole = (speech / "b/three.wav").read_bytes()
    (speech / "b/cut.flac").write_bytes(whole[:100])
    summary = tokenise(groups(speech, size=10))
    assert (summary.num_done, summary.num_failed, summary.exit_code) == (0, 1, 3)
    assert len(read(tokenise.folder)) == len(SECONDS)
    rows = map(json.loads, (tokenise.folder / "manifest.jsonl").read_text().splitlines())
    failed = {row["input"]: row["error"] for row in rows if row["error"] is not None}
    assert failed.keys() == {"a/bad.wav", "b/cut.flac"}
    assert "a/bad.wav" in failed["a/bad.wav"]
    assert tokenise(groups(speech, size=10)).num_failed_before == 1  # it is not tried again


def test_another_codec_or_bandwidth_is_another_corpus(speech, tokenise, codec_folder):
    tokenise(groups(speech))
    other = AudioTokenizer("cpu", str(codec_folder), 3.0)
    with pytest.raises(UserError, match=r"bandwidth was 1\.5 and is 3\.0"):
        tokenise(groups(speech), codec=other)
    tokenise(groups(speech), codec=other, overwrite=True)
    assert read(tokenise.folder)["a/one"].codes.shape == (75, 4)


def test_verifying_finds_tokens_that_are_not_as_recorded(speech, tokenise):
    tokenise(groups(speech))
    ledger = Ledger(tokenise.folder)
    assert verify(ledger, 1, False, False) == []
    first = tokenise.folder / "tokens-000000.tar"
    with first.open("rb") as file:
        kept = list(read_tokens(file, "first"))[:-1]
    with ShardWriter(first) as writer:
        for tokens in kept:
            data = io.BytesIO()
            np.save(data, tokens.codes[1:])
            about = json.dumps(tokens.about).encode()
            writer.add(Sample(tokens.name, {"npy": data.getvalue(), "json": about}))
    (tokenise.folder / "more.tar").write_bytes(b"")
    problems = " ".join(wrong.problem for wrong in verify(ledger, 1, False, False))
    assert "a/one.npy has 74 frames and had 75" in problems
    assert "b/three.npy is missing" in problems
    assert "more.tar is no output" in problems


def test_a_full_disk_ends_the_run_with_a_sentence(speech, tokenise, monkeypatch):
    def full(self, sample):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        tokenise(groups(speech))
    monkeypatch.undo()
    assert tokenise(groups(speech)).num_done == 2
    assert not list(tokenise.folder.glob(".*.tmp"))


def test_readers_refuse_tokens_of_another_codec_and_what_is_none(speech, tokenise, tmp_path):
    tokenise(groups(speech))
    with pytest.raises(UserError, match=r"tokens of the codec .* and those of 0123 are needed"):
        read(tokenise.folder, "0123")
    numbers = io.BytesIO()
    np.save(numbers, np.zeros((3, 2), np.float32))
    with ShardWriter(tmp_path / "floats.tar") as writer:
        writer.add(Sample("x", {"npy": numbers.getvalue(), "json": b'{"codec": "a"}'}))
    with ShardWriter(tmp_path / "none.tar") as writer:
        writer.add(Sample("x", {"txt": b"words"}))
    for name, words in {"floats": "holds no tokens of a codec", "none": "holds no tokens"}.items():
        with (tmp_path / f"{name}.tar").open("rb") as file, pytest.raises(ShardError, match=words):
            list(read_tokens(file, name))


def test_batches_hold_no_more_than_they_may(tokenise, tokenizer, speech, monkeypatch):
    sizes = []
    encode = AudioTokenizer.encode

    def noted(self, waveforms, lengths):
        sizes.append(waveforms.numel())
        return encode(self, waveforms, lengths)

    monkeypatch.setattr(AudioTokenizer, "encode", noted)
    for number in range(20):
        write_wav(speech / f"c/{number}.wav", voice(number, 0.1 + 0.02 * number), 24000)
    tokenise(groups(speech, size=100), batch_seconds=3.0)
    assert max(sizes) <= 3 * 24000
    assert len(sizes) < 8


@pytest.mark.slow
def test_memory_does_not_grow_over_five_thousand_files(tmp_path, tokenise):
    """After a first thousand, whose shards are as large as the others."""
    import resource

    def tokenised(numbers):
        for number in numbers:
            write_wav(tmp_path / f"speech/{number:04d}.wav", voice(number % 50, 0.05), 24000)
        tokenise(groups(tmp_path / "speech", size=250), batch_seconds=5.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = tokenised(range(1000))
    after = tokenised(range(1000, 5000))
    assert len(read(tokenise.folder)) == 5000
    assert after - before < 30
