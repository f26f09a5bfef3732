"""Codec round trips: length, alignment, level, and failures that show."""

from collections.abc import Callable
from functools import partial

import av
import numpy as np
import pytest
from scipy.signal import correlate, firwin, oaconvolve

from open_miipher.audio import codec

CODECS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    **{f"mp3-{r}": partial(codec.mp3, bit_rate=r) for r in (8, 16, 24, 32, 40, 64, 128, 320)},
    **{f"mp3-v{q}": partial(codec.mp3_vbr, quality=q) for q in (0, 4.5, 9)},
    **{f"vorbis-{q}": partial(codec.vorbis, quality=q) for q in (0, 1, 5)},
    **{f"opus-{r}": partial(codec.opus, bit_rate=r) for r in (6, 12, 24, 32, 128)},
    "a_law": codec.a_law,
    "mu_law": codec.mu_law,
}


def band_noise(sample_rate: int, seconds: float = 1.0) -> np.ndarray:
    """Noise between 300 and 1500 Hz, in bursts as speech has them, peak 0.5."""
    rng = np.random.default_rng(5)
    num_samples = round(seconds * sample_rate) + 123
    kernel = firwin(sample_rate // 50 + 1, [300, 1500], pass_zero=False, fs=sample_rate)
    noise = oaconvolve(rng.standard_normal(num_samples), kernel, mode="same")
    noise *= 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(num_samples) / sample_rate)
    return (0.5 * noise / np.abs(noise).max()).astype(np.float32)


def lag(reference: np.ndarray, delayed: np.ndarray) -> int:
    return int(np.argmax(correlate(delayed, reference, method="fft"))) - (len(reference) - 1)


@pytest.mark.parametrize("sample_rate", [16000, 24000, 48000])
@pytest.mark.parametrize("name", CODECS)
def test_length_and_alignment(name: str, sample_rate: int) -> None:
    waveform = band_noise(sample_rate)
    before = waveform.copy()
    decoded = CODECS[name](waveform, sample_rate)
    assert decoded.dtype == np.float32
    assert decoded.shape == waveform.shape
    assert np.array_equal(waveform, before)
    assert not np.array_equal(decoded, waveform)
    # Opus at its lowest rates moves parts of the band by a fraction of a sample each way.
    assert abs(lag(waveform, decoded)) <= (1 if name.startswith("opus") else 0)
    assert np.corrcoef(waveform, decoded)[0, 1] > 0.7


@pytest.mark.parametrize("sample_rate", [8000, 11025, 22050, 44100])
@pytest.mark.parametrize("name", ["mp3-8", "mp3-16", "mp3-64", "mp3-v9", "vorbis-0", "opus-24"])
def test_other_rates(name: str, sample_rate: int) -> None:
    waveform = band_noise(sample_rate)
    decoded = CODECS[name](waveform, sample_rate)
    assert decoded.shape == waveform.shape
    assert abs(lag(waveform, decoded)) <= (1 if name.startswith("opus") else 0)


@pytest.mark.parametrize("num_samples", [1, 2, 100, 1105, 1152])
@pytest.mark.parametrize(
    "name", ["mp3-16", "mp3-128", "mp3-v0", "mp3-v9", "vorbis-0", "opus-12", "a_law", "mu_law"]
)
def test_short_waveforms(name: str, num_samples: int) -> None:
    decoded = CODECS[name](np.full(num_samples, 0.25, np.float32), 24000)
    assert decoded.shape == (num_samples,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", CODECS)
def test_silence_stays_silent(name: str) -> None:
    decoded = CODECS[name](np.zeros(12000, np.float32), 24000)
    assert np.abs(decoded).max() < 3e-4  # A-law has no zero


@pytest.mark.parametrize("name", ["mp3-64", "vorbis-1", "opus-32", "a_law", "mu_law"])
def test_above_full_scale_survives(name: str) -> None:
    waveform = 6.0 * band_noise(24000)  # peak 3
    decoded = CODECS[name](waveform, 24000)
    assert np.corrcoef(waveform, decoded)[0, 1] > 0.9
    gain = float(decoded @ waveform / (waveform @ waveform))
    assert gain == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", ["mp3-64", "vorbis-1", "opus-128", "a_law", "mu_law"])
@pytest.mark.parametrize("frequency", [200.0, 440.0, 3000.0])
def test_tones_stay_in_place(name: str, frequency: float) -> None:
    times = np.arange(24000) / 24000
    waveform = (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)
    decoded = CODECS[name](waveform, 24000)
    middle = slice(4000, 20000)
    assert np.corrcoef(waveform[middle], decoded[middle])[0, 1] > 0.99


@pytest.mark.parametrize(("bit_rate", "sample_rate"), [(16, 24000), (64, 24000), (128, 48000)])
def test_mp3_bit_rate_is_the_asked_one(
    bit_rate: int, sample_rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, decode = [], codec._decoded

    def weigh(decoder: av.CodecContext, packets: list[av.Packet]) -> np.ndarray:
        sizes.append(sum(packet.size for packet in packets))
        return decode(decoder, packets)

    monkeypatch.setattr(codec, "_decoded", weigh)
    codec.mp3(band_noise(sample_rate, seconds=4.0), sample_rate, bit_rate)
    assert sizes[0] * 8 / 4.0 / 1000 == pytest.approx(bit_rate, rel=0.1)


def test_two_minutes_of_vorbis_do_not_crash() -> None:
    waveform = np.tile(band_noise(8000), 130)[: 125 * 8000]
    assert codec.vorbis(waveform, 8000, 0).shape == waveform.shape


@pytest.mark.parametrize("name", ["mp3-64", "vorbis-1", "opus-32", "a_law"])
def test_not_a_number_is_an_error(name: str) -> None:
    waveform = band_noise(24000)
    waveform[100] = np.nan
    with pytest.raises(codec.CodecError, match="NaN"):
        CODECS[name](waveform, 24000)


def test_refused_rate_is_an_error_with_the_reason() -> None:
    with pytest.raises(codec.CodecError, match="MPEG_LAYER_III at 23456 Hz"):
        codec.mp3(np.zeros(1000, np.float32), 23456, 64)


def test_variable_bit_rates_go_down_with_the_number() -> None:
    """-V 9 cuts the band and makes a fraction of what -V 0 makes."""
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(4 * 48000)).astype(np.float32)
    errors = [
        float(np.mean((codec.mp3_vbr(waveform, 48000, quality) - waveform) ** 2))
        for quality in (0.0, 3.0, 6.0, 9.0)
    ]
    assert errors == sorted(errors)
    assert errors[3] > 4 * errors[0]
