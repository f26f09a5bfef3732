"""Lossy codecs in memory: encode, decode, and put the result back where it was in time.

Every function takes a waveform (samples,) float32 and returns a new one of equal length, aligned
with it. Full scale may be passed: codecs clip there, so louder input is scaled in and out. MP3 is
made by lameenc's LAME and Opus by PyAV's ffmpeg, three and seven times as fast as by the libraries
in soundfile's wheel, which are compiled without the processor's vector instructions.

AMR-WB is missing: no Python wheel carries its encoder.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from open_miipher.audio.resample import resample
from open_miipher.base.errors import UserError

try:
    import av
    import lameenc
except ImportError as error:  # an environment of before they were required, for one
    raise UserError(
        f"MP3 and Opus need av and lameenc: {error}; see python src/doctor.py"
    ) from error

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_OPUS_DECODED_RATE = 48000  # whatever was encoded
_OPUS_COMPLEXITY = 5  # of 0 … 10, whose damage is nearly this (tests)
_OPUS_DELAY_SECONDS = 0.04  # more than the encoder looks ahead, and its last packet filled up
_OPUS_MAX_LAG_SECONDS = 1.5e-4
_LAME_QUALITY, _LAME_VBR = 3, 4  # what `lame` and `lame -V` take
_MP3_DELAY = 576 + 529  # samples that encoder and decoder put before what went in


class CodecError(Exception):
    """A round trip that failed, with the codec and the reason."""


def mp3(waveform: np.ndarray, sample_rate: int, bit_rate: float) -> np.ndarray:
    """Pass a waveform through MP3.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz, one of MPEG's (8000 … 48000).
        bit_rate: in kb/s; the nearest that MPEG has at this sample rate is taken.

    Raises:
        CodecError: the codec refuses the rate or returns too little.
    """
    low, high = (8, 64) if sample_rate < 16000 else (8, 160) if sample_rate < 32000 else (32, 320)
    nearest = round(min(max(bit_rate, low), high))
    return _mp3(waveform, sample_rate, lambda encoder: encoder.set_bit_rate(nearest))


def mp3_vbr(waveform: np.ndarray, sample_rate: int, quality: float) -> np.ndarray:
    """Pass a waveform through MP3 at a variable bit rate.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz, one of MPEG's (8000 … 48000).
        quality: 0 … 9 as lame's `-V`: about 245 to 65 kb/s for stereo music at 44.1 kHz.

    Raises:
        CodecError: the codec refuses the rate or returns too little.
    """

    def choose(encoder: lameenc.Encoder) -> None:
        encoder.set_vbr(_LAME_VBR)
        encoder.set_vbr_quality(quality)

    return _mp3(waveform, sample_rate, choose)


def _mp3(
    waveform: np.ndarray, sample_rate: int, choose: Callable[[lameenc.Encoder], None]
) -> np.ndarray:
    """Encode, at the bit rates that `choose` sets, and decode."""

    def code(source: np.ndarray) -> np.ndarray:
        encoder = lameenc.Encoder()
        encoder.silence()
        encoder.set_channels(1)
        encoder.set_in_sample_rate(sample_rate)
        encoder.set_out_sample_rate(sample_rate)
        encoder.set_quality(_LAME_QUALITY)
        choose(encoder)
        encoded = encoder.encode(np.rint(32767 * source).astype(np.int16).tobytes())
        decoder = av.CodecContext.create("mp3float", "r")
        return _decoded(decoder, decoder.parse(bytes(encoded + encoder.flush())))

    decoded = _at_full_scale(waveform, f"MPEG_LAYER_III at {sample_rate} Hz", code)
    return _cut(decoded[_MP3_DELAY:], len(waveform), "mp3")


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


def opus(waveform: np.ndarray, sample_rate: int, bit_rate: float) -> np.ndarray:
    """Pass a waveform through Opus.

    Args:
        waveform: (samples,) float32 at `sample_rate`.
        sample_rate: in Hz; one that Opus lacks goes through 48 kHz.
        bit_rate: nominal, 6 … 256 kb/s.

    Raises:
        CodecError: the codec fails or returns too little.
    """
    codec_rate = sample_rate if sample_rate in _OPUS_RATES else _OPUS_DECODED_RATE

    def code(source: np.ndarray) -> np.ndarray:
        encoder = av.CodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = codec_rate, "mono", "flt"
        encoder.bit_rate = round(1000 * bit_rate)
        encoder.options = {"compression_level": str(_OPUS_COMPLEXITY)}
        padded = np.pad(source, (0, round(_OPUS_DELAY_SECONDS * codec_rate)))
        frame = av.AudioFrame.from_ndarray(padded[None], format="flt", layout="mono")
        frame.sample_rate = codec_rate
        packets = encoder.encode(frame) + encoder.encode(None)
        decoder = av.CodecContext.create("opus", "r")
        decoder.extradata = encoder.extradata  # tells how far the encoder looks ahead
        return _decoded(decoder, packets)

    source = resample(waveform, sample_rate, codec_rate)
    decoded = _at_full_scale(source, f"OPUS at {codec_rate} Hz", code)
    decoded = _cut(resample(decoded, _OPUS_DECODED_RATE, sample_rate), len(waveform), "opus")
    # Its speech mode resamples inside, which leaves a delay of up to 150 us that hangs on the bit
    # rate and on what is said: so it is measured each time.
    return _undo_lag(waveform, decoded, round(_OPUS_MAX_LAG_SECONDS * sample_rate))


def a_law(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pass a waveform (samples,) through G.711 A-law, 8 bits a sample at `sample_rate`."""
    decoded = _through_libsndfile(waveform, sample_rate, "WAV", "ALAW")
    return _cut(decoded, len(waveform), "a_law")


def mu_law(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pass a waveform (samples,) through G.711 mu-law, 8 bits a sample at `sample_rate`."""
    decoded = _through_libsndfile(waveform, sample_rate, "WAV", "ULAW")
    return _cut(decoded, len(waveform), "mu_law")


def _decoded(decoder: av.CodecContext, packets: list[av.Packet]) -> np.ndarray:
    """Return what one channel's packets hold; the length is the codec's."""
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _through_libsndfile(
    waveform: np.ndarray,
    sample_rate: int,
    container: str,
    subtype: str,
    compression_level: float | None = None,
) -> np.ndarray:
    """Encode and decode; the length is the codec's."""

    def code(source: np.ndarray) -> np.ndarray:
        encoded = io.BytesIO()
        with soundfile.SoundFile(
            encoded,
            "w",
            samplerate=sample_rate,
            channels=1,
            format=container,
            subtype=subtype,
            compression_level=compression_level,
        ) as file:
            # One write of two minutes or more of Vorbis crashes libsndfile 1.2.2.
            for start in range(0, len(source), sample_rate):
                file.write(source[start : start + sample_rate])
        encoded.seek(0)
        with soundfile.SoundFile(encoded) as file:
            return file.read(dtype="float32")

    return _at_full_scale(waveform, f"{subtype} at {sample_rate} Hz", code)


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
    except (soundfile.SoundFileError, av.FFmpegError, RuntimeError, ValueError) as error:
        raise CodecError(f"{name}: {error}") from error
    if not np.isfinite(decoded).all():
        raise CodecError(f"{name}: NaN or Inf came back")
    return decoded * scale


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
