"""Restore, tokenise and speak in Ray Data: callable classes for `Dataset.map_batches`.

    dataset.map_batches(RestoreBatch, batch_size=16, concurrency=4, num_gpus=1)

An actor loads its model once. Rows keep their other columns; what is wrong with one stands in its
column `error` (empty: nothing), and never ends the job; one that has an `error` already keeps it,
and is passed over. Ray itself is not imported here.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from open_miipher.audio.formats import FileFormat
from open_miipher.audio.io import Encoded, probe
from open_miipher.base.errors import UserError
from open_miipher.codec.audio_tokenizer import ENCODEC_24KHZ, AudioTokenizer
from open_miipher.restoration import DEFAULT_MODEL, MemorySink, RestoreOptions, Restorer, Source
from open_miipher.restoration.streams import ArraySink
from open_miipher.synthesis.judging import (
    MAX_CHARACTERS,
    BadText,
    as_spoken,
    expected_seconds,
    problem_with,
)
from open_miipher.synthesis.tts_processor import TTSConfig, TTSProcessor, attempt

Batch = Mapping[str, np.ndarray]
"""A column each, (rows,); rows of different lengths are an array of objects."""


class RestoreBatch:
    """Restores a column of audio files in memory, or of waveforms with `sample_rate`.

    Files become files; waveforms, (samples,) float of full scale ±1, int16 or int32, become
    float32. Both have the rate that then stands in `sample_rate`, and are what `src/inference.py`
    makes of each. Of a row with an `error` they are empty.

    Args:
        checkpoint: see `Restorer.from_checkpoint`.
        options: of the restoration.
        file_format: of files.
        column: that holds audio files; without one of this name, `waveform` is read.
        batch_size: the most chunks at once; None: as `Restorer.from_checkpoint`.
        device: None: a GPU if the actor has one.
        amp: as `Restorer.from_checkpoint`.

    Raises:
        UserError: on construction: the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: str | Path = DEFAULT_MODEL,
        options: RestoreOptions | None = None,
        file_format: FileFormat | None = None,
        column: str = "bytes",
        batch_size: int | None = None,
        device: str | None = None,
        amp: Literal["bf16", "no"] | None = None,
    ) -> None:
        self._restorer = Restorer.from_checkpoint(
            checkpoint, options or RestoreOptions(), batch_size, device, amp
        )
        self._column, self._file_format = column, file_format or FileFormat()

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Restore a batch."""
        restorer, made_of, format = self._restorer, self._column, self._file_format
        is_files = made_of in batch
        sources = _sources(batch, made_of)
        sounds: list[Any] = [b"" if is_files else np.zeros(0, np.float32) for _ in sources]
        rates, errors = [0] * len(sources), ["" if isinstance(s, Source) else s for s in sources]
        jobs = {}
        for row, source in enumerate(sources):
            if isinstance(source, Source):
                rates[row] = restorer.options.output_shape(source, restorer.model)[0]
                name, rate = source.name, rates[row]
                file = MemorySink(name, rate, format.format, format.subtype)
                sink = file if is_files else ArraySink()
                jobs[restorer.job(source, sink)] = row, sink
        for job in restorer.restore_jobs(jobs):
            row, sink = jobs[job]
            if job.error is not None:
                errors[row], rates[row] = str(job.error), 0
            else:
                sounds[row] = sink.data if isinstance(sink, MemorySink) else _mono(sink.waveform)
        column = made_of if is_files else "waveform"
        return {
            **batch,
            column: _objects(sounds),
            "sample_rate": np.array(rates, np.int64),
            "error": _objects(errors),
        }


class TokenizeBatch:
    """Adds `tokens`, (frames · codebooks) in time order, and `codebooks` to audio.

    Args:
        source: of the codec, see `codec.audio_tokenizer.CodecConfig`.
        bandwidth: in kb/s.
        column: see `RestoreBatch`.
        device: None: a GPU if the actor has one.

    Raises:
        UserError: on construction: the codec cannot be loaded.
    """

    def __init__(
        self,
        source: str = ENCODEC_24KHZ,
        bandwidth: float = 1.5,
        column: str = "bytes",
        device: str | None = None,
    ) -> None:
        self._codec = AudioTokenizer(_device(device), source, bandwidth)
        self._column = column

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Tokenise a batch."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        tokens = [np.zeros(0, np.int16) for _ in _rows(batch)]
        waveforms, errors = list[Any](), list[str]()
        for source in _sources(batch, self._column):
            try:
                waveforms.append(_read(source, self._codec.sample_rate))
                errors.append("")
            except UserError as error:
                waveforms.append(None)
                errors.append(str(error))
        good = [row for row, waveform in enumerate(waveforms) if waveform is not None]
        if good:
            padded = pad_sequence([torch.from_numpy(waveforms[row]) for row in good], True)
            lengths = torch.tensor([len(waveforms[row]) for row in good])
            for row, codes in zip(good, self._codec.encode(padded, lengths), strict=True):
                tokens[row] = codes.numpy().ravel()
        return {
            **batch,
            "tokens": _objects(tokens),
            "codebooks": np.full(len(tokens), self._codec.codebooks, np.int64),
            "error": _objects(errors),
        }


class SynthesizeBatch:
    """Speaks a column of texts: adds `waveform`, (samples,) float32, and `sample_rate`.

    As by `src/synthesize.py`, a text that is none, or has no letter or digit, is an error; and one
    is tried again with other seeds if what is said is empty, silent, clipped, not finite, or of an
    unlikely length.

    Args:
        backend: see `TTSConfig`.
        model: see `TTSConfig`.
        voice: see `TTSConfig`.
        characters_per_second: see `expected_seconds`.
        max_retries: how often a text is tried again.
        seed: of everything that is drawn; that of a text follows from it and the text.
        column: of the texts.
        device: None: a GPU if the actor has one.
        max_characters: of a text; a longer one is an error.

    Raises:
        UserError: on construction: the model cannot be loaded.
    """

    def __init__(
        self,
        backend: str = "transformers",
        model: str | None = None,
        voice: str | int | None = None,
        characters_per_second: float = TTSConfig.characters_per_second,
        max_retries: int = 3,
        seed: int = 0,
        column: str = "text",
        device: str | None = None,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self._processor = TTSProcessor(_device(device), backend, model, voice)
        self._characters_per_second, self._max_retries = characters_per_second, max_retries
        self._seed, self._column, self._max_characters = seed, column, max_characters

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Speak a batch."""
        sounds: list[Any] = [np.zeros(0, np.float32) for _ in _rows(batch)]
        errors, texts = _earlier_errors(batch), dict[int, str]()
        for row in [row for row, error in enumerate(errors) if not error]:
            text = self._text(batch, row)
            if isinstance(text, BadText):
                errors[row] = text.problem
            else:
                texts[row] = text
        left = list(texts)
        for number in range(self._max_retries + 1):
            said = attempt(
                self._processor.speak,
                [texts[row] for row in left],
                [self._text_seed(texts[row], number) for row in left],
            )
            for row, sound in zip(left, said, strict=True):
                errors[row] = self._problem(texts[row], sound) or ""
                if not errors[row]:
                    sounds[row] = sound
            left = [row for row in left if errors[row]]
            if not left:
                break
        rates = [0 if error else self._processor.sample_rate for error in errors]
        return {
            **batch,
            "waveform": _objects(sounds),
            "sample_rate": np.array(rates, np.int64),
            "error": _objects(errors),
        }

    def _text(self, batch: Batch, row: int) -> str | BadText:
        if self._column not in batch:
            return BadText(f"there is no column {self._column}")
        return as_spoken(batch[self._column][row], self._max_characters)

    def _text_seed(self, text: str, number: int) -> int:
        return int.from_bytes(sha256(f"{self._seed} {text} {number}".encode()).digest()[:8]) >> 1

    def _problem(self, text: str, sound: np.ndarray | str) -> str | None:
        if isinstance(sound, str):
            return sound
        expected = expected_seconds(text, self._characters_per_second)
        return problem_with(sound, self._processor.sample_rate, expected)


def _sources(batch: Batch, column: str) -> list[Source | str]:
    """Return the audio of every row, or why there is none."""
    errors, made = _earlier_errors(batch), dict[int, Source | str]()
    for row in (row for row, error in enumerate(errors) if not error):
        if column in batch:
            made[row] = _file_source(batch[column][row], f"row {row}")
        elif "waveform" in batch and "sample_rate" in batch:
            wave, rate = batch["waveform"][row], batch["sample_rate"][row]
            made[row] = _array_source(wave, rate, f"row {row}")
        else:
            made[row] = f"there is no column {column}, nor waveform and sample_rate"
    return [made.get(row, error) for row, error in enumerate(errors)]


def _earlier_errors(batch: Batch) -> list[str]:
    """Return what an earlier step says is wrong with each row; empty: nothing."""
    given = batch.get("error", [""] * len(_rows(batch)))
    return [str(error) if isinstance(error, str) else "" for error in given]


def _file_source(data: Any, name: str) -> Source | str:
    if not isinstance(data, bytes):
        return f"{name} holds no file, but {type(data).__name__}"
    file = Encoded(name, data)
    try:
        return Source.from_file(file, probe(file))
    except UserError as error:
        return str(error)


def _array_source(waveform: Any, rate: Any, name: str) -> Source | str:
    try:
        samples = np.atleast_2d(np.asarray(_plain(waveform)))
        if samples.dtype in (np.int16, np.int32):
            samples = samples / -float(np.iinfo(samples.dtype).min)
        elif samples.dtype.kind != "f":
            return f"{name}: samples of {samples.dtype}; float, int16 or int32 is needed"
        samples = samples.astype(np.float32)
        if samples.ndim != 2 or not samples.size:
            return f"{name}: a waveform of the shape {samples.shape}; (samples,) is needed"
        if not np.isfinite(samples).all():
            return f"{name}: the waveform holds NaN or infinity"
        return Source.from_array(samples, rate, name)
    except (UserError, TypeError, ValueError) as error:
        return f"{name}: {error}"


def _plain(waveform: Any) -> Any:
    """Return lists in place of arrays of objects, as Ray has them of unlike rows."""
    is_of_objects = isinstance(waveform, np.ndarray) and waveform.dtype == object
    return waveform.tolist() if is_of_objects else waveform


def _read(source: Source | str, sample_rate: int) -> np.ndarray:
    """Read audio as (samples,) float32 at a rate.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if isinstance(source, str):
        raise UserError(source)
    return np.concatenate(list(source.resampled(sample_rate, mono=True)), axis=1)[0]


def _mono(waveform: np.ndarray) -> np.ndarray:
    """Return (samples,) where there is one channel."""
    return waveform[0] if len(waveform) == 1 else waveform


def _rows(batch: Batch) -> np.ndarray:
    """Return any column, for the number of rows; none are as good as an empty one."""
    return next(iter(batch.values()), np.zeros(0))


def _objects(values: list[Any]) -> np.ndarray:
    """Return an array of objects, whatever they are."""
    array = np.empty(len(values), object)
    for place, value in enumerate(values):
        array[place] = value
    return array


def _device(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")
