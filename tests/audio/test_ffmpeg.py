"""What PyAV reads."""

from pathlib import Path

import av
import numpy as np
import pytest

from open_miipher.audio.io import AudioError, AudioReader, Encoded, probe, read
from open_miipher.index import find_audio, scan

KINDS = {
    "m4a": ("aac", 24000, 1),
    "mp4": ("aac", 44100, 2),
    "webm": ("libopus", 48000, 2),
    "wma": ("wmav2", 22050, 1),
    "mka": ("aac", 16000, 1),
}


def encode(path: Path, seconds: float = 2.5) -> np.ndarray:
    """Write tones of 440 Hz (and 880 Hz on the right); return them."""
    codec, rate, channels = KINDS[path.suffix[1:]]
    time = np.arange(round(seconds * rate)) / rate
    tones = np.sin(2 * np.pi * 440 * np.outer(np.arange(1, channels + 1), time)) / 4
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate)
        track.layout = "mono" if channels == 1 else "stereo"
        track.bit_rate = 64000
        given = av.AudioFrame.from_ndarray(
            tones.astype(np.float32), format="fltp", layout=track.layout.name
        )
        given.sample_rate = rate
        fitting = av.AudioResampler(track.format.name, track.layout, rate, track.frame_size or None)
        for frame in [*fitting.resample(given), *fitting.resample(None)]:
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return tones


@pytest.mark.parametrize("kind", KINDS)
def test_the_audio_of_other_containers_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    tones = encode(path)
    _, rate, channels = KINDS[kind]
    info = probe(path)
    assert (info.sample_rate, info.num_channels) == (rate, channels)
    assert info.num_frames == pytest.approx(tones.shape[1], abs=2100)  # encoders fill a frame
    whole, _ = read(path)
    assert whole.shape == (channels, info.num_frames)
    assert whole.dtype == np.float32
    start, length = rate // 2, rate  # past what encoders put before the start
    spectrum = np.abs(np.fft.rfft(whole[:, start : start + length] * np.hanning(length)))
    assert spectrum.argmax(axis=1).tolist() == [440, 880][:channels]
    assert np.sqrt(np.mean(whole[:, start : start + length] ** 2)) == pytest.approx(0.177, rel=0.1)
    part, _ = read(path, start=rate, num_frames=777)
    assert np.array_equal(part, whole[:, rate : rate + 777])
    with AudioReader(path) as reader:
        assert np.array_equal(np.concatenate(list(reader.blocks(1000)), axis=1), whole)
        assert np.array_equal(next(reader.blocks(500, start=100)), whole[:, 100:600])
    in_memory, _ = read(Encoded(f"x.{kind}", path.read_bytes()))
    assert np.array_equal(in_memory, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_an_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    encode(path, seconds=8.0)
    data = path.read_bytes()
    for content in (data[: len(data) // 2], b"\0" * 3000, bytes(range(256)) * 12, b""):
        path.write_bytes(content)
        with pytest.raises(AudioError, match=rf"a\.{kind} "):
            probe(path)


def test_a_file_of_another_kind_under_such_a_name_is_read_if_it_can_be(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.full(1000, 0.25), 8000)
    (tmp_path / "a.wav").rename(tmp_path / "a.m4a")
    assert probe(tmp_path / "a.m4a").num_frames == 1000


def test_they_are_found_in_folders(tmp_path: Path) -> None:
    for kind in KINDS:
        encode(tmp_path / f"a.{kind}", seconds=0.5)
    (tmp_path / "b.g722").write_bytes(b"bare")
    assert len(find_audio(tmp_path)) == len(scan(tmp_path).entries) == len(KINDS)
