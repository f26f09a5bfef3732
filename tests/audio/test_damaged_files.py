"""Whatever a file does to its decoder ends as an AudioError, in bounded time and memory."""

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from audio_files import FORMATS, encoded

from open_miipher.audio.io import AudioError, AudioReader, Encoded, probe, read, read_header
from open_miipher.audio.resample import num_output_frames
from open_miipher.restoration import Source

SECONDS_PER_FILE = 10.0
BYTES_PER_FILE = 300 << 20  # a header may announce any number of frames
FIELDS = [
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\1\0\0\0",
]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip, overwrite, remove or repeat bytes, in the header as often as behind it."""
    wrong = bytearray(data)
    place = int(rng.integers(len(wrong) if rng.random() < 0.5 else min(200, len(wrong))))
    count = int(rng.integers(1, 600))
    match int(rng.integers(6)):
        case 0:
            del wrong[place:]
        case 1:
            for _ in range(rng.integers(1, 9)):
                wrong[min(place + int(rng.integers(100)), len(wrong) - 1)] ^= 1 << rng.integers(8)
        case 2:
            wrong[place : place + count] = rng.bytes(count)
        case 3:
            wrong[place : place + 4] = FIELDS[rng.integers(len(FIELDS))]
        case 4:
            del wrong[place : place + count]
        case 5:
            wrong[place:place] = wrong[place : place + count]
    return bytes(wrong)


def random_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Keep as little as a decoder needs to feel responsible."""
    return data[: rng.integers(4, 64)] + rng.bytes(int(rng.integers(1, 5000)))


def look(file: Path | Encoded) -> None:
    """Read a file in every way there is; what comes must be what its header says."""
    with suppress(AudioError):
        probe(file)
    with suppress(AudioError):
        info = read_header(file)
        samples, _ = read(file)
        assert samples.shape == (info.num_channels, info.num_frames)
        assert np.isfinite(samples).all()
    with suppress(AudioError), AudioReader(file) as reader:
        num_frames = sum(block.shape[1] for block in reader.blocks(1 << 14))
        assert num_frames == reader.info.num_frames
        source = Source.from_file(file, reader.info)
        num_samples = sum(block.shape[1] for block in source.resampled(16000, mono=True))
        assert num_samples == num_output_frames(num_frames, source.sample_rate, 16000)


def look_at_many(path: Path, name: str, seeds: range) -> None:
    path = path / name
    for seed in seeds:
        rng = np.random.default_rng([seed, len(name), list(FORMATS).index(name)])
        whole = encoded(name, 12_000, 1 if name == "gsm.wav" or seed % 3 else 2)
        data = (random_bytes if seed % 10 == 9 else damaged)(whole, rng)
        path.write_bytes(data)
        began = time.monotonic()
        tracemalloc.start()
        try:
            look(Encoded(f"{seed}.{name}", data) if seed % 2 else path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert time.monotonic() - began < SECONDS_PER_FILE, seed
        assert peak < BYTES_PER_FILE, seed


@pytest.mark.parametrize("name", FORMATS)
def test_any_damage_is_an_error_or_audio(tmp_path: Path, name: str) -> None:
    look_at_many(tmp_path, name, range(10))


@pytest.mark.parametrize("begin", ["wav", "w64", "aiff", "caf", "au", "flac", "ogg", "mp3"])
def test_a_long_file_of_nothing_takes_no_time(tmp_path: Path, begin: str) -> None:
    """As a recorder leaves it that took its room on the disk beforehand."""
    path = tmp_path / "x.wav"
    began = time.monotonic()
    for kept in (12, 40):
        with path.open("wb") as file:  # takes no room on the disk
            file.write(encoded(begin)[:kept])
            file.truncate(1 << 30)
        with pytest.raises(AudioError):
            probe(path)
    assert time.monotonic() - began < SECONDS_PER_FILE


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_much_damage_is_an_error_or_audio(tmp_path: Path, name: str) -> None:
    look_at_many(tmp_path, name, range(10, 110))
