"""Lossy codecs in memory: encode, decode, and put the result back where it was in time.

Every function takes a waveform (samples,) float32 and returns a new one of equal length, aligned
with it. Full scale may be passed: codecs clip there, so louder input is scaled in and out. MP3 and
Opus are those of soundfile's libsndfile or, if `fast`, those of the system (see `system_codecs`).

AMR-WB is missing: no Python wheel carries its encoder.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from open_miipher.audio import system_codecs
from open_miipher.audio.resample import resample

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_OPUS_BIT_RATES = (6.0, 256.0)  # kb/s a channel at libsndfile's compression levels 1 and 0
# Without room in its first frame for the header that tells the delay, an MP3 comes back with the
# encoder's 576 and the decoder's 529 samples before it, and longer than it went in.
_MP3_DELAY = 1105
_OPUS_MAX_LAG_SECONDS = 1e-4


class CodecError(Exception):
    """A round trip that failed, with the codec and the reason."""


def mp3(waveform: np.ndarray, sample_rate: int, bit_rate: float, fast: bool = False) -> np.ndarray:
    """Pass a waveform through MP3.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz, one of MPEG's (8000 … 48000).
        bit_rate: in kb/s; the nearest that MPEG has at this sample rate is taken.
        fast: by the system's LAME.

    Raises:
        CodecError: the codec refuses the rate or returns too little.
    """
    low, high = (8, 64) if sample_rate < 16000 else (8, 160) if sample_rate < 32000 else (32, 320)
    nearest = min(max(bit_rate, low), high)
    level = min((high - nearest) / (high - low), 0.999)  # libsndfile refuses the level 1 itself

    def encode(source: np.ndarray) -> bytes:
        if fast:
            return system_codecs.mp3(source, sample_rate, bit_rate=nearest)
        return _encode(source, sample_rate, "MP3", "MPEG_LAYER_III", level, "CONSTANT")

    return _mp3(waveform, sample_rate, encode)


def mp3_vbr(
    waveform: np.ndarray, sample_rate: int, quality: float, fast: bool = False
) -> np.ndarray:
    """Pass a waveform through MP3 at a variable bit rate.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz, one of MPEG's (8000 … 48000).
        quality: 0 … 9 as lame's `-V`: about 245 to 65 kb/s for stereo music at 44.1 kHz.
        fast: by the system's LAME.

    Raises:
        CodecError: the codec refuses the rate or returns too little.
    """
    level = quality / 10.0

    def encode(source: np.ndarray) -> bytes:
        if fast:
            return system_codecs.mp3(source, sample_rate, quality=quality)
        return _encode(source, sample_rate, "MP3", "MPEG_LAYER_III", level, "VARIABLE")

    return _mp3(waveform, sample_rate, encode)


def _mp3(
    waveform: np.ndarray, sample_rate: int, encode: Callable[[np.ndarray], bytes]
) -> np.ndarray:
    decoded = _round_trip(waveform, f"MPEG_LAYER_III at {sample_rate} Hz", encode)
    delay = _MP3_DELAY if len(decoded) > len(waveform) else 0
    return _cut(decoded[delay:], len(waveform), "mp3")


def vorbis(waveform: np.ndarray, sample_rate: int, quality: float) -> np.ndarray:
    """Pass a waveform through Ogg Vorbis.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz.
        quality: 0 … 10 as oggenc's `-q`; its -1 is out of libsndfile's reach.

    Raises:
        CodecError: the codec refuses the rate or returns too little.
    """
    level = 1.0 - quality / 10.0
    decoded = _through_libsndfile(waveform, sample_rate, "OGG", "VORBIS", level)
    return _cut(decoded, len(waveform), "vorbis")


def opus(waveform: np.ndarray, sample_rate: int, bit_rate: float, fast: bool = False) -> np.ndarray:
    """Pass a waveform through Ogg Opus.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz; one that Opus lacks goes through 48 kHz.
        bit_rate: nominal, 6 … 256 kb/s.
        fast: by the system's libopus.

    Raises:
        CodecError: the codec fails or returns too little.
    """
    codec_rate = sample_rate if sample_rate in _OPUS_RATES else 48000
    low, high = _OPUS_BIT_RATES
    level = min(max((high - bit_rate) / (high - low), 0.0), 1.0)
    source = waveform
    if codec_rate != sample_rate:
        source = resample(waveform, sample_rate, codec_rate)
    if fast:
        decoded = _at_full_scale(
            source,
            f"OPUS at {codec_rate} Hz",
            lambda scaled: system_codecs.opus(scaled, codec_rate, bit_rate),
        )
    else:
        decoded = _through_libsndfile(source, codec_rate, "OGG", "OPUS", level)
    decoded = _cut(decoded, len(source), "opus")
    # Its speech mode resamples inside, which leaves a delay of up to 80 us that hangs on the bit
    # rate and on what is said: so it is measured each time.
    decoded = _undo_lag(source, decoded, round(_OPUS_MAX_LAG_SECONDS * codec_rate))
    if codec_rate != sample_rate:
        decoded = _cut(resample(decoded, codec_rate, sample_rate), len(waveform), "opus")
    return decoded


def a_law(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pass a waveform (samples,) through G.711 A-law, 8 bits a sample at `sample_rate`."""
    decoded = _through_libsndfile(waveform, sample_rate, "WAV", "ALAW")
    return _cut(decoded, len(waveform), "a_law")


def mu_law(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pass a waveform (samples,) through G.711 mu-law, 8 bits a sample at `sample_rate`."""
    decoded = _through_libsndfile(waveform, sample_rate, "WAV", "ULAW")
    return _cut(decoded, len(waveform), "mu_law")


def _through_libsndfile(
    waveform: np.ndarray,
    sample_rate: int,
    container: str,
    subtype: str,
    compression_level: float | None = None,
) -> np.ndarray:
    """Encode and decode; the length is the codec's."""

    def encode(source: np.ndarray) -> bytes:
        return _encode(source, sample_rate, container, subtype, compression_level)

    return _round_trip(waveform, f"{subtype} at {sample_rate} Hz", encode)


def _round_trip(
    waveform: np.ndarray, name: str, encode: Callable[[np.ndarray], bytes]
) -> np.ndarray:
    """Encode, and decode by libsndfile; the length is the codec's."""

    def code(source: np.ndarray) -> np.ndarray:
        with soundfile.SoundFile(io.BytesIO(encode(source))) as file:
            return file.read(dtype="float32")

    return _at_full_scale(waveform, name, code)


def _at_full_scale(
    waveform: np.ndarray, name: str, code: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Encode and decode at most at full scale; what goes wrong names the codec."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if not np.isfinite(peak):
        raise CodecError(f"{name}: the waveform holds NaN or Inf")
    scale = np.float32(max(peak, 1.0))
    try:
        decoded = code(waveform / scale)
    except (soundfile.SoundFileError, ValueError, system_codecs.SystemCodecError) as error:
        raise CodecError(f"{name}: {error}") from error
    if not np.isfinite(decoded).all():
        raise CodecError(f"{name}: NaN or Inf came back")
    return decoded * scale


def _encode(
    waveform: np.ndarray,
    sample_rate: int,
    container: str,
    subtype: str,
    compression_level: float | None = None,
    bitrate_mode: str | None = None,
) -> bytes:
    encoded = io.BytesIO()
    with soundfile.SoundFile(
        encoded,
        "w",
        samplerate=sample_rate,
        channels=1,
        format=container,
        subtype=subtype,
        compression_level=compression_level,
        bitrate_mode=bitrate_mode,
    ) as file:
        # One write of two minutes or more of Vorbis crashes libsndfile 1.2.2.
        for start in range(0, len(waveform), sample_rate):
            file.write(waveform[start : start + sample_rate])
    return encoded.getvalue()


def _cut(decoded: np.ndarray, num_samples: int, codec: str) -> np.ndarray:
    if len(decoded) < num_samples:
        raise CodecError(f"{codec}: {len(decoded)} of {num_samples} samples came back")
    return decoded[:num_samples].copy()


def _undo_lag(reference: np.ndarray, delayed: np.ndarray, max_lag: int) -> np.ndarray:
    """Shift `delayed` by the whole samples, at most `max_lag`, that align it with `reference`.

    The smallest shift within 0.1 % of the best correlation is taken, so that silence, and tones
    that fit at several shifts, stay where they are.
    """
    padded = np.pad(delayed, max_lag)
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)
    shifted = {lag: padded[max_lag + lag :][: len(reference)] for lag in lags}
    scores = {lag: float((reference * shifted[lag]).sum()) for lag in lags}
    best = max(scores.values())
    if best <= 0:  # silence, or a codec that turned it into something else
        return delayed
    return next(shifted[lag] for lag in lags if scores[lag] >= 0.999 * best)
