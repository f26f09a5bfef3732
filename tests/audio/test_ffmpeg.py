"""What PyAV reads."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from open_miipher.audio.ffmpeg import FfmpegFile
from open_miipher.audio.io import AudioError, AudioReader, Encoded, probe, read
from open_miipher.index import find_audio, scan

KINDS = {
    "m4a": ("aac", 24000, 1),
    "mp4": ("aac", 44100, 2),
    "webm": ("libopus", 48000, 2),
    "wma": ("wmav2", 22050, 1),
    "mka": ("aac", 16000, 1),
}
OF_UNKNOWN_LENGTH = {"ts": ("mp2", 16000, 1), "aac": ("aac", 24000, 1)}


def encode(path: Path, seconds: float = 2.5, rate: int | None = None) -> np.ndarray:
    """Write tones of 440 Hz (and 880 Hz on the right); return them."""
    codec, usual, channels = (KINDS | OF_UNKNOWN_LENGTH)[path.suffix[1:]]
    rate = rate or usual
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
    soundfile.write(tmp_path / "a.wav", np.full(1000, 0.25), 8000)
    (tmp_path / "a.wav").rename(tmp_path / "a.m4a")
    assert probe(tmp_path / "a.m4a").num_frames == 1000


@pytest.mark.parametrize("kind", [*KINDS, *OF_UNKNOWN_LENGTH])
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "standard input"])
def test_they_are_known_by_their_content(tmp_path: Path, kind: str, name: str) -> None:
    encode(tmp_path / f"a.{kind}")
    expected, _ = read(tmp_path / f"a.{kind}")
    (tmp_path / f"a.{kind}").rename(tmp_path / name)
    assert np.array_equal(read(tmp_path / name)[0], expected)


def test_they_are_found_in_folders(tmp_path: Path) -> None:
    for kind in KINDS:
        encode(tmp_path / f"a.{kind}", seconds=0.5)
    (tmp_path / "b.g722").write_bytes(b"bare")
    assert len(find_audio(tmp_path)) == len(scan(tmp_path).entries) == len(KINDS)


def encode_video(
    path: Path, seconds: float, starts: float = 0.0, pause: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write 8 s of video, of a pixel that changes, and a tone beside it, of `seconds`.

    Args:
        path: of the file to be.
        seconds: how long the tone is.
        starts: when it begins.
        pause: of these seconds of it, no packets are written.
    """
    rate = 16000
    with av.open(
        str(path), "w", format="matroska" if path.suffix == ".webm" else None
    ) as container:
        picture, track = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate)
        picture.width, picture.height, picture.pix_fmt, track.layout = 16, 16, "yuv420p", "mono"
        for i in range(80):
            pixels = np.full((16, 16, 3), i, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode(None))
        tone = np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate) / 4
        for first in range(0, len(tone), 1024):
            if pause[0] <= first / rate < pause[1]:
                continue
            part = tone[None, first : first + 1024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, round(starts * rate) + first
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("starts", [0.0, 4.0])
def test_audio_may_be_shorter_than_the_video_beside_it(
    tmp_path: Path, kind: str, starts: float
) -> None:
    encode_video(tmp_path / f"a.{kind}", 3.0, starts)
    info = probe(tmp_path / f"a.{kind}")
    assert info.num_frames / info.sample_rate == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_audio_that_is_missing_in_the_middle_is_told(tmp_path: Path, kind: str) -> None:
    encode_video(tmp_path / f"a.{kind}", 8.0, pause=(2.0, 5.0))
    with pytest.raises(AudioError, match=r"a\.m.* 3\.0 s of its audio are missing"):
        probe(tmp_path / f"a.{kind}")


def test_video_alone_has_no_audio(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", 0.0)
    with pytest.raises(AudioError, match=r"a\.mp4 cannot be opened as audio: it has no audio"):
        probe(tmp_path / "a.mp4")


SDP = "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'other.m4a'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nother.m4a\n#EXT-X-ENDLIST\n",
        SDP,
        "export class Component { title: string }\n",
    ],
)
@pytest.mark.parametrize("name", ["a.m4a", "a.ts"])
def test_a_text_opens_no_other_file_and_no_port(
    tmp_path: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "other.m4a")
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioError, match=rf"^{name} cannot be opened as audio: it is text$"):
        probe(name)
    with (
        pytest.raises(ValueError, match=r"^Invalid (data|argument)"),
        Path(name).open("rb") as file,
    ):
        FfmpegFile(file, name[2:])


def test_tags_may_have_any_encoding(tmp_path: Path) -> None:
    encode(tmp_path / "a.mka")
    data = (tmp_path / "a.mka").read_bytes()
    with av.open(str(tmp_path / "a.mka")) as container:
        encoder = container.metadata["ENCODER"].encode()
    assert encoder in data
    (tmp_path / "a.mka").write_bytes(data.replace(encoder, b"\xe9" * len(encoder)))
    assert probe(tmp_path / "a.mka").sample_rate == 16000


def test_audio_of_an_unknown_codec_is_told(tmp_path: Path) -> None:
    encode(tmp_path / "a.mka")
    data = (tmp_path / "a.mka").read_bytes()
    assert data.count(b"A_AAC") == 1
    (tmp_path / "a.mka").write_bytes(data.replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(AudioError, match=r"a\.mka .*encrypted, or of a codec that is not known"):
        probe(tmp_path / "a.mka")


def test_a_track_that_comes_up_within_a_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    encode(path)
    whole = probe(path).num_frames
    packets = bytearray(path.read_bytes())
    starts = [i for i in range(0, len(packets), 188) if packets[i + 1] == 0x41]
    packets[starts[-1] + 1] |= 0x04  # audio of another number
    path.write_bytes(packets)
    assert whole * 0.5 < probe(path).num_frames < whole


def test_a_rate_that_changes_is_told(tmp_path: Path) -> None:
    joined = b""
    for rate in (24000, 16000):
        encode(tmp_path / "a.aac", rate=rate)
        joined += (tmp_path / "a.aac").read_bytes()
    (tmp_path / "a.aac").write_bytes(joined)
    with pytest.raises(AudioError, match=r"its sample rate .* changes after 2\.[456] s"):
        probe(tmp_path / "a.aac")


def test_without_pyav_the_file_is_named_and_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "a.m4a")
    soundfile.write(tmp_path / "a.wav", np.full(1000, 0.25), 8000)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"a\.m4a .* PyAV is needed: .*; see python src/doctor"):
        probe(tmp_path / "a.m4a")
    assert probe(tmp_path / "a.wav").num_frames == 1000
