"""The system's MP3 and Opus do to speech what those of libsndfile do; without them, it is said."""

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from open_miipher.audio import codec, system_codecs
from open_miipher.base.errors import UserError
from open_miipher.degradation import Context, DegradationConfig, Trace, build_degradation

SPEECH = Path(__file__).parents[2] / "dataset" / "demo" / "speech" / "test"
RATE = 24000


def _are_here() -> bool:
    try:
        system_codecs.find()
    except system_codecs.SystemCodecError:
        return False
    return True


needs_them = pytest.mark.skipif(not _are_here(), reason="this machine has no libopus or no LAME")

CODECS: dict[str, Callable[..., np.ndarray]] = {
    **{f"opus-{r}": partial(codec.opus, bit_rate=r) for r in (8, 16, 24, 32)},
    **{f"mp3-{r}": partial(codec.mp3, bit_rate=r) for r in (16, 32, 64, 128)},
    **{f"mp3-v{q}": partial(codec.mp3_vbr, quality=q) for q in (0.0, 9.0)},
}


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Speech of the demo, at most 4 s each."""
    found = []
    for path in sorted(SPEECH.glob("*.flac")):
        waveform, rate = soundfile.read(path, frames=4 * RATE, dtype="float32")
        assert rate == RATE
        found.append(waveform)
    return found


def bands_db(waveform: np.ndarray) -> np.ndarray:
    """Power of every frame of 21 ms in six bands up to 12 kHz, in dB, at least -70 dB."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::256] * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, :256] / 512
    edges = [0, 21, 43, 85, 128, 170]  # up to 1, 2, 4, 6, 8, 12 kHz
    return 10 * np.log10(np.add.reduceat(power, edges, axis=1) + 1e-7)


def damage(clips: list[np.ndarray], code: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return what it does: level, spectral distance and the mean change of each band, in dB."""
    rows = []
    for clip in clips:
        before, coded = bands_db(clip), code(clip)
        change = bands_db(coded) - before
        level = 10 * np.log10(np.square(coded).mean() / np.square(clip).mean())
        distance = np.sqrt(np.square(change).mean(axis=1)).mean()
        rows.append([level, distance, *change.mean(axis=0)])
    return np.mean(rows, axis=0)


@needs_them
@pytest.mark.parametrize("name", CODECS)
def test_the_damage_is_that_of_libsndfiles_codec(name: str, clips: list[np.ndarray]) -> None:
    slow, fast = (
        damage(clips, lambda clip, fast=fast: CODECS[name](clip, RATE, fast=fast))
        for fast in (False, True)
    )
    assert abs(fast - slow)[0] < 0.3  # level
    assert abs(fast - slow)[1] < 0.6  # spectral distance, of 2 to 30 dB
    assert abs(fast - slow)[2:].max() < 1.5  # each band: none is kept that the other loses


@needs_them
@pytest.mark.parametrize("sample_rate", [16000, 24000, 44100, 48000])
@pytest.mark.parametrize("name", CODECS)
def test_it_has_the_length_and_the_place_of_what_went_in(
    name: str, sample_rate: int, clips: list[np.ndarray]
) -> None:
    waveform = 3 * clips[0][:20123]  # beyond full scale
    coded = CODECS[name](waveform, sample_rate, fast=True)
    assert coded.shape == waveform.shape
    assert coded.dtype == np.float32
    lag = int(np.argmax(correlate(coded, waveform, method="fft"))) - (len(waveform) - 1)
    assert abs(lag) <= (1 if name.startswith("opus") else 0)
    assert np.corrcoef(waveform, coded)[0, 1] > 0.75
    assert np.array_equal(coded, CODECS[name](waveform, sample_rate, fast=True))


@needs_them
@pytest.mark.parametrize("num_samples", [1, 100, 1152])
@pytest.mark.parametrize("name", CODECS)
def test_short_waveforms(name: str, num_samples: int) -> None:
    coded = CODECS[name](np.full(num_samples, 0.25, np.float32), RATE, fast=True)
    assert coded.shape == (num_samples,)
    assert np.isfinite(coded).all()


@needs_them
def test_a_chain_takes_them_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {name: {"name": name} for name in ("opus", "mp3", "mp3_vbr")}
    chain = build_degradation(DegradationConfig(stages, fast_codecs=True), Context(RATE))
    monkeypatch.setattr(soundfile.SoundFile, "write", lambda *_: pytest.fail("not by libsndfile"))
    waveform = np.random.default_rng(0).uniform(-0.1, 0.1, RATE).astype(np.float32)
    trace = Trace(waveform)
    chain(waveform, np.random.default_rng(0), trace)
    assert [drawn["name"] for drawn in trace.drawn] == list(stages)
    assert trace.failures == []


@pytest.fixture
def without_them(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    loaded = (system_codecs._libopus, system_codecs._lame)
    for load in loaded:
        load.cache_clear()
    yield
    for load in loaded:
        load.cache_clear()


@pytest.mark.usefixtures("without_them")
def test_a_machine_without_them_is_told_how_to_get_them() -> None:
    config = DegradationConfig({"opus": {"name": "opus"}}, fast_codecs=True)
    with pytest.raises(UserError, match=r"fast_codecs=true: .*libopus.so.0; install libopus"):
        build_degradation(config, Context(RATE))
    build_degradation(DegradationConfig({"hum": {"name": "hum"}}, fast_codecs=True), Context(RATE))
