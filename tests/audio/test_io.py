"""Audio files: what goes in comes out, and every way of being broken is an error with a reason."""

import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_miipher.audio import writing
from open_miipher.audio.io import (
    AudioError,
    AudioReader,
    AudioWriter,
    MemoryWriter,
    probe,
    read,
    read_header,
)


def noise(num_frames: int, num_channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (num_channels, num_frames)).astype(np.float32)


def write(path: Path, waveform: np.ndarray, **options: str) -> Path:
    with AudioWriter(path, 24000, len(waveform), **options) as writer:
        for start in range(0, waveform.shape[1], 777):
            writer.write(waveform[:, start : start + 777])
    return path


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("wav", None, 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "FLOAT", 0),
        ("wav", "DOUBLE", 0),
        ("flac", None, 2**-15),
        ("flac", "PCM_24", 2**-23),
    ],
)
def test_what_is_written_is_read(
    tmp_path: Path, format: str, subtype: str | None, tolerance: float
) -> None:
    waveform = noise(5000, 3)
    path = write(tmp_path / f"x.{format}", waveform, format=format, subtype=subtype)
    info = probe(path)
    assert (info.sample_rate, info.num_frames, info.num_channels) == (24000, 5000, 3)
    assert (info.format, info.subtype) in {
        ("WAV", subtype or "PCM_16"),
        ("WAVEX", subtype),
        ("FLAC", subtype or "PCM_16"),
    }
    found, rate = read(path)
    assert rate == 24000
    assert found.dtype == np.float32
    assert np.abs(found - waveform).max() <= tolerance
    part, _ = read(path, 1234, 321)
    np.testing.assert_array_equal(part, found[:, 1234:1555])
    with AudioReader(path) as reader:
        assert reader.info == info
        blocks = list(reader.blocks(999))
        part_in_blocks = list(reader.blocks(100, 1234, 321))
    assert [block.shape for block in blocks] == [(3, 999)] * 5 + [(3, 5)]
    np.testing.assert_array_equal(np.concatenate(part_in_blocks, axis=1), part)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), found)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("subtype", ["ALAW", "ULAW"])
def test_companded_samples_clip(tmp_path: Path, subtype: str) -> None:
    loud = np.array([[1.2, -1.5, 0.5]], np.float32)
    found, _ = read(write(tmp_path / "x.wav", loud, subtype=subtype))
    np.testing.assert_allclose(found, [[1, -1, 0.5]], atol=0.03)


def test_integer_samples_clip_and_float_samples_do_not(tmp_path: Path) -> None:
    loud = np.array([[3.0, -3.0, 0.5]], dtype=np.float32)
    clipped, _ = read(write(tmp_path / "x.wav", loud))
    np.testing.assert_allclose(clipped, [[1, -1, 0.5]], atol=2**-14)
    kept, _ = read(write(tmp_path / "y.wav", loud, subtype="FLOAT"))
    np.testing.assert_array_equal(kept, loud)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF", "CAF"])
def test_16_bits_become_the_floats_that_libsndfile_makes_of_them(
    tmp_path: Path, format: str
) -> None:
    samples = np.arange(-32768, 32768).astype(np.int16).reshape(-1, 2)
    soundfile.write(tmp_path / "x", samples, 24000, format=format, subtype="PCM_16")
    found, _ = read(tmp_path / "x")
    expected, _ = soundfile.read(tmp_path / "x", dtype="float32")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.T)


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("loudest", [0.5, 32767.4 / 32768, 32767.6 / 32768, 1.0, 1.3])
def test_floats_become_the_nearest_16_bits(tmp_path: Path, format: str, loudest: float) -> None:
    waveform = np.array([[loudest, -loudest, 0.4 / 32768, 0.6 / 32768, -0.6 / 32768, 0.25]])
    path = write(tmp_path / f"x.{format}", waveform.astype(np.float32), format=format)
    found, _ = soundfile.read(path, dtype="int16")
    expected = np.rint(waveform[0].astype(np.float32) * 32768).clip(-32768, 32767)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("frames", [1, 2, 2047, 50_000])
@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.aiff", "a.mp3", "a.ogg", "a.opus", "rf64.wav", "gsm.wav"]
)
def test_every_format_is_read_whole_and_in_parts(tmp_path: Path, name: str, frames: int) -> None:
    format = {"ogg": "OGG", "opus": "OGG", "rf64": "RF64"}.get(name.split(".")[-1])
    format = "RF64" if name.startswith("rf64") else format
    subtype = {"a.opus": "OPUS", "a.ogg": "VORBIS", "gsm.wav": "GSM610"}.get(name)
    path = tmp_path / name
    waveform = noise(frames, 1)[0] if name == "gsm.wav" else noise(frames).T
    soundfile.write(path, waveform, 24000, format=format, subtype=subtype)
    info = probe(path)
    assert info.num_frames == frames or (name == "gsm.wav" and info.num_frames >= frames)
    whole, _ = read(path)
    start = info.num_frames // 2
    part, _ = read(path, start, info.num_frames - start)
    np.testing.assert_allclose(part, whole[:, start:], atol=1e-6)


@pytest.mark.parametrize("share", [0.999, 0.7, 0.1])
@pytest.mark.parametrize(
    "name",
    ["a.wav", "pcm24.wav", "float.wav", "rf64.wav", "a.aiff", "a.flac", "a.mp3", "a.ogg", "a.opus"],
)
def test_a_truncated_file_is_an_error(tmp_path: Path, name: str, share: float) -> None:
    format = {"a.ogg": "OGG", "a.opus": "OGG", "rf64.wav": "RF64"}.get(name)
    subtype = {"a.opus": "OPUS", "pcm24.wav": "PCM_24", "float.wav": "FLOAT"}.get(name)
    path = tmp_path / name
    soundfile.write(path, noise(48000).T, 24000, format=format, subtype=subtype)
    assert probe(path).num_frames == 48000
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(AudioError, match=str(path)):
        probe(path)
    with pytest.raises(AudioError, match=str(path)), AudioReader(path) as reader:
        for _ in reader.blocks(4096):
            pass


def test_what_is_no_audio_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio in here")
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "dangling.wav").symlink_to("nowhere.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), 24000)
    problems = {
        "text.wav": "cannot be opened as audio",
        "empty.flac": "cannot be opened as audio",
        "folder.wav": "Is a directory",
        "dangling.wav": "No such file",
        "silent.wav": "no audio frames",
    }
    for name, reason in problems.items():
        for look in (probe, read_header, read, AudioReader):
            with pytest.raises(AudioError, match=f"{name}.*{reason}"):
                look(tmp_path / name)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_has_no_length_and_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, noise(1000, 1)[0], 24000)
    content = path.read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + struct.pack("<I", size) + content[place + 4 :])
    assert probe(path).num_frames == 1000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_named(tmp_path: Path, bad: float) -> None:
    waveform = noise(9000)
    waveform[1, 7654] = bad
    soundfile.write(tmp_path / "x.wav", waveform.T, 24000, subtype="FLOAT")
    with pytest.raises(AudioError, match="frame 7654"):
        read(tmp_path / "x.wav", 5000)
    with (
        pytest.raises(AudioError, match="frame 7654"),
        AudioReader(tmp_path / "x.wav") as reader,
    ):
        list(reader.blocks(1000))


def test_numbers_that_are_no_samples_are_named(tmp_path: Path) -> None:
    waveform = noise(900, 1)
    waveform[0, [100, 200]] = 2**31, -3e38  # 32-bit integers as floats are taken
    soundfile.write(tmp_path / "x.wav", waveform.T, 24000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"x\.wav holds the number 3e\+38 at frame 200"):
        read(tmp_path / "x.wav")


def test_samples_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    waveform = noise(1000)
    waveform[0, 900] = np.nan
    with pytest.raises(AudioError, match=r"x\.wav holds NaN or Inf at frame 900"):
        write(tmp_path / "x.wav", waveform)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("start", "num_frames"), [(-1, 5), (90, 11), (101, None), (0, 101)])
def test_reading_beyond_the_end_is_an_error(
    tmp_path: Path, start: int, num_frames: int | None
) -> None:
    path = write(tmp_path / "x.flac", noise(100), format="flac")
    with pytest.raises(AudioError, match="100 frames"):
        read(path, start, num_frames)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_a_wav_that_grows_too_long_goes_on_as_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtype: str
) -> None:
    waveform = noise(20_000)
    plain = write(tmp_path / "plain.wav", waveform, subtype=subtype)
    monkeypatch.setattr(writing, "WAV_BYTE_LIMIT", 60_000)
    path = write(tmp_path / "long.wav", waveform, subtype=subtype)
    assert probe(plain).format.startswith("WAV")
    info = probe(path)
    assert (info.format, info.subtype, info.num_frames) == ("RF64", subtype, 20_000)
    expected, found = (soundfile.read(p, dtype="float64")[0] for p in (plain, path))
    np.testing.assert_array_equal(found, expected)
    assert sorted(os.listdir(tmp_path)) == ["long.wav", "plain.wav"]


@pytest.mark.slow
def test_more_than_four_gigabytes_keep_their_frame_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("needs 6 GB of disk")
    monkeypatch.setattr(writing, "WAV_BYTE_LIMIT", 1 << 24)  # spares the copy of the first 4 GiB
    path = tmp_path / "long.wav"
    block = np.zeros((8, 1 << 20), dtype=np.float32)
    with AudioWriter(path, 48000, 8) as writer:
        for _ in range(260):
            writer.write(block)
    info = probe(path)
    size = path.stat().st_size
    path.unlink()
    assert size > 2**32
    assert (info.num_frames, info.format) == (260 << 20, "RF64")


@pytest.mark.parametrize(
    ("format", "subtype"), [("wav", None), ("wav", "ULAW"), ("wav", "FLOAT"), ("flac", "PCM_24")]
)
def test_a_file_in_memory_has_the_bytes_of_one_on_the_disk(
    tmp_path: Path, format: str, subtype: str | None
) -> None:
    waveform = 3 * noise(5000)
    path = write(tmp_path / "x", waveform, format=format, subtype=subtype)
    writer = MemoryWriter("x", 24000, 2, format, subtype)
    for start in range(0, 5000, 777):
        writer.write(waveform[:, start : start + 777])
    assert writer.finish() == path.read_bytes()


def test_what_cannot_be_written_into_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="FLOAT"):
        MemoryWriter("x", 24000, 1, "flac", "FLOAT")
    with pytest.raises(AudioError, match="x cannot be written"):
        MemoryWriter("x", 24000, 9, "flac")
    with pytest.raises(AudioError, match="no audio frames"):
        MemoryWriter("x", 24000, 1).finish()
    monkeypatch.setattr(writing, "WAV_BYTE_LIMIT", 1000)
    with pytest.raises(AudioError, match="more than 4 GiB"):
        MemoryWriter("x", 24000, 2).write(noise(500))


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", noise(100))
    before = path.read_bytes()

    def fail() -> None:
        with AudioWriter(path, 24000, 2) as writer:
            writer.write(noise(50))
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        fail()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.wav"]


def test_writing_what_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="subtype 'PCM_99'"):
        AudioWriter(tmp_path / "x.wav", 24000, 1, subtype="PCM_99")
    with pytest.raises(AudioError, match="FLOAT"):
        AudioWriter(tmp_path / "x.flac", 24000, 1, "flac", "FLOAT")
    with pytest.raises(AudioError, match="cannot be written: No such file"):
        AudioWriter(tmp_path / "nowhere" / "x.wav", 24000, 1)
    with pytest.raises(AudioError, match="channels"), AudioWriter(tmp_path / "x", 24000, 1) as w:
        w.write(noise(10))
    with pytest.raises(AudioError, match="no frames"), AudioWriter(tmp_path / "x", 24000, 1):
        pass
    assert os.listdir(tmp_path) == []


def test_an_mp3_of_noise_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(AudioError, match=r"x\.mp3 cannot be opened as audio: no audio is found"):
        probe(tmp_path / "x.mp3")


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "DOUBLE"])
def test_what_is_written_does_not_depend_on_when(tmp_path: Path, subtype: str) -> None:
    samples, written = noise(1000), []
    for number in range(2):
        time.sleep(number and 1.1)  # what counts seconds has another one
        in_memory = MemoryWriter("x", 24000, 2, subtype=subtype)
        in_memory.write(samples)
        with AudioWriter(tmp_path / "x.wav", 24000, 2, subtype=subtype) as writer:
            writer.write(samples)
        written += [in_memory.finish(), (tmp_path / "x.wav").read_bytes()]
    assert len(set(written)) == 1


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("is_full", [True, False])
def test_a_disk_that_takes_no_more_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, is_full: bool
) -> None:
    """The limit on a file's size stands in for a full disk and for a quota."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:4], 0, *real[5:]))
    if is_full:
        monkeypatch.setattr(os, "statvfs", lambda _: full)
    reason = "no space left on its disk" if is_full else "File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with (
            pytest.raises(AudioError, match=rf"x\.{format} cannot be written: {reason}$"),
            AudioWriter(tmp_path / f"x.{format}", 24000, 2, format) as writer,
        ):
            writer.write(noise(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["日本語 の名前.wav", "äöü\n,\"'.wav", "ا ب.flac", "x" * 250 + ".wav", "-rf.wav"]
)
def test_names_in_any_script(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.with_name("plain").mkdir()
    write(path, noise(100), format=path.suffix[1:])
    assert probe(path).num_frames == 100
    assert sorted(os.listdir(tmp_path)) == sorted([name, "plain"])


def test_a_name_that_is_no_utf8_is_read_and_printable(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write(tmp_path / "x.wav", noise(100)).rename(tmp_path / name)
    assert probe(tmp_path / name).num_frames == 100
    os.truncate(tmp_path / name, 60)
    with pytest.raises(AudioError) as error:
        probe(tmp_path / name)
    assert "caf\\xe9.wav" in str(error.value)
    assert str(error.value).encode()


def test_a_kind_that_is_not_read_says_that_it_can_be_converted(tmp_path) -> None:
    for name in ("a.m4p", "b.DSS", "c.wav"):
        (tmp_path / name).write_bytes(b"\1\2\3" * 1000)
        with pytest.raises(AudioError) as refused:
            probe(tmp_path / name)
        assert ("convert it, with ffmpeg" in str(refused.value)) == (name != "c.wav")
