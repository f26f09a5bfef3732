"""What visitors of the page send: what is taken, what is refused and in which words."""

import errno
import io
import os
import socket
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech import voice, write_wav

from open_miipher.app import Limits, check_free, restore_file, restore_files
from open_miipher.audio.io import AudioWriter
from open_miipher.base.errors import UserError
from open_miipher.commands.app import main
from open_miipher.restoration import RestoreOptions, Restorer, trust_of

RATE = 16000


@pytest.fixture(scope="module")
def restorer():
    return Restorer.from_checkpoint(device="cpu")


def flac(num_frames: int, rate: int = 8000) -> bytes:
    """A FLAC file of silence; each block has its number, and takes next to nothing."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "PCM_16", format="FLAC") as file:
        silence = np.zeros(min(num_frames, 1 << 20), np.int16)
        for start in range(0, num_frames, len(silence)):
            file.write(silence[: num_frames - start])
    return buffer.getvalue()


def claiming(data: bytes, num_frames: int) -> bytes:
    """The same FLAC file with another number of frames in its header (RFC 9639, 8.2)."""
    place = 4 + 4 + 13  # marker, block header, then what comes before its last 36 bits
    first = data[place] & 0xF0 | num_frames >> 32
    return data[:place] + bytes([first]) + struct.pack(">I", num_frames & 0xFFFFFFFF) + data[26:]


def zipped() -> bytes:
    """A zip archive that becomes a thousand times its size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("speech.wav", bytes(20_000_000))
    return buffer.getvalue()


def wav_header(num_frames: int, rate: int, channels: int) -> bytes:
    size = 2 * channels * num_frames
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data"


HOUR = 3600
SENT = {
    "empty": (b"", "is empty"),
    "text": (b"no audio at all\n" * 99, "cannot be opened as audio"),
    "program": (Path(sys.executable).read_bytes()[:300_000], "cannot be opened as audio"),
    "zip bomb": (zipped(), "a zip archive"),
    "html": (b"<!doctype html><p>not found", "a web page"),
    "no frames": (wav_header(0, RATE, 1) + bytes(4), "holds no audio frames"),
    "cut": (wav_header(9000, RATE, 1) + struct.pack("<I", 18000) + bytes(200), "is truncated"),
    "two hours": (flac(2 * HOUR * 8000), "is 2.00 h long; this page takes at most 10 files"),
    "a hundred hours by its header": (claiming(flac(8000), 100 * HOUR * 8000), "100.00 h long"),
    "length left open": (claiming(flac(8000), 0), "does not give its length"),
    "more inside than its header says": (claiming(flac(9 * 8000), 8000), None),
    "many channels": (
        wav_header(9, 48000, 64) + struct.pack("<I", 1152) + bytes(1152),
        "has 64 channels at 48000 Hz, more than this page takes",
    ),
}


@pytest.mark.parametrize(("data", "reason"), SENT.values(), ids=SENT)
def test_what_is_no_speech_of_a_few_minutes_is_refused_in_one_sentence(
    restorer, tmp_path, data, reason
):
    path = tmp_path / "in" / "my speech.wav"
    path.parent.mkdir()
    path.write_bytes(data)
    if reason is None:  # no more of it is decoded than was checked
        restored = restore_file(path, restorer, Limits(), tmp_path / "out")
        assert soundfile.info(restored.before).frames == 8000
        return
    with pytest.raises(UserError) as raised:
        restore_file(path, restorer, Limits(), tmp_path / "out")
    sentence = str(raised.value)
    assert sentence.startswith("my speech.wav")
    assert reason in sentence
    assert str(tmp_path) not in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "out").exists()


def test_a_file_of_too_many_bytes_is_not_opened(restorer, tmp_path):
    path = tmp_path / "large.wav"
    with path.open("wb") as file:
        file.truncate(3_000_000)
    with pytest.raises(UserError, match=r"^large.wav has 3.0 MB; this page takes .* and 2 MB$"):
        restore_file(path, restorer, Limits(megabytes=2), tmp_path / "out")


@pytest.mark.parametrize(("rate", "strength"), [(8000, 1.0), (44100, 0.3)])
def test_the_download_is_what_the_restorer_makes(restorer, tmp_path, rate, strength):
    noise = 0.02 * np.random.default_rng(0).standard_normal(3 * rate)
    noisy = voice(0, 3.0, rate) + noise.astype(np.float32)
    write_wav(tmp_path / "noisy.wav", noisy, rate)
    chosen = Restorer(restorer.model, RestoreOptions(strength=strength, trust=True))
    result = restore_file(tmp_path / "noisy.wav", chosen, Limits(), tmp_path / "out")
    given, _ = soundfile.read(tmp_path / "noisy.wav", dtype="float32")
    expected, rate_out = chosen.restore(given, rate)
    restored, rate_restored = soundfile.read(result.after, dtype="float32")
    assert rate_restored == rate_out
    assert result.after.name == "noisy_restored.wav"
    np.testing.assert_allclose(restored, expected, rtol=0, atol=1 / 32768)
    np.testing.assert_array_equal(soundfile.read(result.before, dtype="float32")[0], given)
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    trust = trust_of(given[None], rate, restored[None], rate_out)
    assert result.sentence.startswith(f"**noisy.wav**: 3.0 s at {rate} Hz restored; trust ")
    assert float(result.sentence.split()[8]) == pytest.approx(trust.score, abs=0.05)


@pytest.mark.parametrize("what", ["spectrograms.png", "before.wav", "voice_restored.wav"])
def test_a_full_disk_is_told_by_the_visitors_name_for_the_file(
    restorer, tmp_path, monkeypatch, what
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_wav(tmp_path / "voice.wav", voice(1, 0.5, RATE), RATE)
    if what == "spectrograms.png":
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    else:
        encode = AudioWriter._encode
        monkeypatch.setattr(
            AudioWriter, "_encode", lambda w, b: (full if w._name.name == what else encode)(w, b)
        )
    results, problems = restore_files(
        [tmp_path / "voice.wav"], restorer, Limits(), tmp_path / "out", lambda *_: None
    )
    assert results == []
    (problem,) = problems
    assert problem.startswith("voice.wav")
    assert problem.endswith("written here: No space left on device") == (what[-3:] == "png")
    assert "No space left on device" in problem
    assert str(tmp_path) not in problem
    assert not (tmp_path / "out" / "0").exists()


def test_a_bad_file_does_not_end_the_others_and_too_many_are_left(restorer, tmp_path):
    paths = [tmp_path / f"{k}.wav" for k in range(4)]
    for path in paths:
        write_wav(path, voice(1, 0.5, RATE), RATE)
    paths[1].write_bytes(b"")
    told = []
    results, problems = restore_files(
        paths, restorer, Limits(files=3), tmp_path / "out", lambda *counts: told.append(counts)
    )
    assert [result.name for result in results] == ["0.wav", "2.wav"]
    assert problems == [
        "1.wav cannot be opened as audio: it is empty",
        "the last 1 of 4 files are left: this page takes at most 3 files at once, each up to "
        "10 minutes and 100 MB",
    ]
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_a_port_in_use_is_told_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use: choose another"):
            main(["--port", str(port), "--ckpt-dir", "/nowhere"])
    check_free("127.0.0.1", port)


WRONG = {
    "no such address": (["--host", "203.0.113.7"], "nothing can listen at 203.0.113.7"),
    "no port": (["--port", "0"], "port 0: choose 1 to 65535"),
    "no minutes": (["--max-minutes", "0"], "choose numbers above 0"),
    "megabytes without end": (["--max-megabytes", "inf"], "choose numbers above 0"),
    "no checkpoint": (["--ckpt-dir", "/nowhere", "--port", "7999"], "/nowhere"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_one_sentence(words, message):
    with pytest.raises(UserError, match=message):
        main(words)
