"""Opus and MP3 by the libopus and LAME of the system, faster than by those in soundfile's wheel.

The wheel's are compiled without the processor's vector instructions, at a third of the speed, and
its libopus always tries its hardest. Here it works at complexity 5, told that it hears speech, for
which it would take another kind of coding otherwise. The damage is the same: see
tests/audio/test_system_codecs.py. The numbers are those of opus_defines.h and lame.h.
"""

import ctypes
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_size_t, c_void_p
from functools import lru_cache

import numpy as np

_OPUS, _LAME = "libopus.so.0", "libmp3lame.so.0"
_AUDIO, _VOICE = 2049, 3001
_SET_BITRATE, _SET_COMPLEXITY, _SET_SIGNAL, _GET_LOOKAHEAD = 4002, 4010, 4024, 4027
_COMPLEXITY = 5
_PACKET_BYTES = 4000  # the most, as opus.h advises
_MONO, _VBR_OFF, _VBR_DEFAULT = 3, 0, 4


class SystemCodecError(Exception):
    """What one of the two libraries refuses, or that it is not there."""


def opus(waveform: np.ndarray, sample_rate: int, bit_rate: float) -> np.ndarray:
    """Encode and decode in packets of 20 ms.

    Args:
        waveform: (samples,) float32, at most at full scale.
        sample_rate: in Hz, one of Opus's.
        bit_rate: nominal, in kb/s.

    Returns:
        (samples,) float32; the encoder's look-ahead is taken out.

    Raises:
        SystemCodecError: libopus is missing, or refuses.
    """
    library, status, ahead, frame = _libopus(), c_int(0), c_int32(0), sample_rate // 50
    encoder = library.opus_encoder_create(sample_rate, 1, _AUDIO, byref(status))
    decoder = library.opus_decoder_create(sample_rate, 1, byref(status))
    try:
        _check("libopus", status.value)
        for request, value in (
            (_SET_BITRATE, round(1000 * bit_rate)),
            (_SET_COMPLEXITY, _COMPLEXITY),
            (_SET_SIGNAL, _VOICE),
        ):
            _check("libopus", library.opus_encoder_ctl(c_void_p(encoder), request, value))
        library.opus_encoder_ctl(c_void_p(encoder), _GET_LOOKAHEAD, byref(ahead))
        source = np.zeros(-(-(len(waveform) + ahead.value) // frame) * frame, np.float32)
        source[: len(waveform)] = waveform
        decoded, packet = np.empty_like(source), np.empty(_PACKET_BYTES, np.uint8)
        given, taken, between = (array.ctypes.data for array in (source, decoded, packet))
        for place in range(0, source.nbytes, frame * source.itemsize):
            size = library.opus_encode_float(encoder, given + place, frame, between, _PACKET_BYTES)
            _check("libopus", size)
            size = library.opus_decode_float(decoder, between, size, taken + place, frame, 0)
            _check("libopus", size)
    finally:
        library.opus_encoder_destroy(encoder)
        library.opus_decoder_destroy(decoder)
    return decoded[ahead.value :][: len(waveform)]


def mp3(
    waveform: np.ndarray,
    sample_rate: int,
    bit_rate: float | None = None,
    quality: float | None = None,
) -> bytes:
    """Encode as an MP3 file, at a constant or a variable bit rate.

    Args:
        waveform: (samples,) float32, at most at full scale.
        sample_rate: in Hz, one of MPEG's.
        bit_rate: constant, in kb/s; the nearest that MPEG has is taken.
        quality: if there is no bit rate: variable, 0 … 9 as lame's `-V`.

    Raises:
        SystemCodecError: LAME is missing, or refuses.
    """
    library = _lame()
    encoder = c_void_p(library.lame_init())
    try:
        library.lame_set_in_samplerate(encoder, sample_rate)
        library.lame_set_out_samplerate(encoder, sample_rate)
        library.lame_set_num_channels(encoder, 1)
        library.lame_set_mode(encoder, _MONO)
        if bit_rate is not None:
            library.lame_set_VBR(encoder, _VBR_OFF)
            library.lame_set_brate(encoder, round(bit_rate))
        else:
            library.lame_set_VBR(encoder, _VBR_DEFAULT)
            library.lame_set_VBR_quality(encoder, c_float(quality or 0.0))
        _check("LAME", library.lame_init_params(encoder))
        source = np.ascontiguousarray(waveform, np.float32)
        file = np.empty(5 * len(source) // 4 + 7200, np.uint8)  # the most, as lame.h says
        place, room = file.ctypes.data, len(file)
        size = library.lame_encode_buffer_ieee_float(
            encoder, source.ctypes.data, None, len(source), place, room
        )
        _check("LAME", size)
        rest = library.lame_encode_flush(encoder, place + size, room - size)
        _check("LAME", rest)
        # It tells the encoder's delay, where there was room for it in the first frame.
        library.lame_get_lametag_frame(encoder, place, room)
        return file[: size + rest].tobytes()
    finally:
        library.lame_close(encoder)


def find() -> None:
    """Look for both libraries.

    Raises:
        SystemCodecError: one is not there.
    """
    _libopus()
    _lame()


@lru_cache
def _libopus() -> ctypes.CDLL:
    library = _load(_OPUS)
    library.opus_encoder_create.argtypes = [c_int32, c_int, c_int, POINTER(c_int)]
    library.opus_decoder_create.argtypes = [c_int32, c_int, POINTER(c_int)]
    library.opus_encode_float.argtypes = [c_void_p, c_void_p, c_int, c_void_p, c_int32]
    library.opus_decode_float.argtypes = [c_void_p, c_void_p, c_int32, c_void_p, c_int, c_int]
    for name in ("encoder", "decoder"):
        getattr(library, f"opus_{name}_create").restype = c_void_p
        getattr(library, f"opus_{name}_destroy").argtypes = [c_void_p]
    return library


@lru_cache
def _lame() -> ctypes.CDLL:
    library = _load(_LAME)
    library.lame_init.restype = c_void_p
    library.lame_encode_buffer_ieee_float.argtypes = [c_void_p] * 3 + [c_int, c_void_p, c_int]
    library.lame_encode_flush.argtypes = [c_void_p, c_void_p, c_int]
    library.lame_get_lametag_frame.argtypes = [c_void_p, c_void_p, c_size_t]
    library.lame_get_lametag_frame.restype = c_size_t
    return library


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise SystemCodecError(f"this machine has no {name}") from error


def _check(library: str, status: int) -> None:
    if status < 0:
        raise SystemCodecError(f"{library} failed with its error {status}")
