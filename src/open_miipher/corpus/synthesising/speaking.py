"""What a worker does: speak texts in batches, judge, restore, turn into tokens, and write."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from open_miipher.audio.io import AudioWriter, MemoryWriter
from open_miipher.audio.resample import resample
from open_miipher.corpus.pool import worker_place
from open_miipher.corpus.run import Item
from open_miipher.corpus.synthesising.config import SynthesisConfig
from open_miipher.synthesis.judging import problem_with
from open_miipher.synthesis.tts_processor import TTSProcessor, attempt

if TYPE_CHECKING:
    from open_miipher.codec.audio_tokenizer import AudioTokenizer
    from open_miipher.restoration import Restorer

_AHEAD = 2  # batches that were spoken and are not written yet
_WRITERS = 4  # files at once


@dataclass(frozen=True)
class Text:
    """A text to speak.

    Attributes:
        index: in its set.
        text: as it is spoken.
        output: path of its sound in the output directory.
        seed: of its sound.
        expected: seconds it should take.
    """

    index: str
    text: str
    output: str
    seed: int
    expected: float


@dataclass(frozen=True)
class Said:
    """What became of a text.

    Attributes:
        index: of the text.
        problem: why the speech is no good, if it is not; then there is nothing else.
        tokens: (frames, codebooks) int16.
        num_frames: of the sound, at `processing.sample_rate`.
        audio: the sound as a FLAC file, where shards are written; else None.
        audio_bytes: size of that, or of the file.
        model, codec: fingerprints of what spoke, and of what made the tokens.
    """

    index: str
    problem: str | None
    tokens: np.ndarray | None = None
    num_frames: int = 0
    audio: bytes | None = None
    audio_bytes: int = 0
    model: str = ""
    codec: str = ""


Load = Callable[[str], "tuple[TTSProcessor, AudioTokenizer]"]
"""Loads what speaks, and the codec, onto a device."""


@dataclass(frozen=True)
class Speaking:
    """Sets up a worker (`Pool.map`'s `build`); its items are lists of `Text`, of one group each.

    Args:
        config: of the run.
        devices: of the pool's workers, by their places.
        load: what speaks, and the codec; None: as the configuration says.
    """

    config: SynthesisConfig
    devices: Sequence[str]
    load: Load | None = None

    def __call__(self) -> Callable[[Item], Any]:
        """Load what is needed onto this worker's device; gives `Begun` and lists of `Said`."""
        import torch

        device, config = self.devices[worker_place()], self.config
        if device == "cpu" and len(self.devices) > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // len(self.devices)))
        # For good: the threads of a worker would turn it on and off for each other.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        processor, codec = (self.load or self._load)(device)
        return _Speaker(config, processor, codec, _restorer(config, device)).speak

    def _load(self, device: str) -> "tuple[TTSProcessor, AudioTokenizer]":
        from open_miipher.codec.audio_tokenizer import AudioTokenizer

        tts = self.config.tts
        processor = TTSProcessor(device, tts.backend, tts.model, tts.voice)
        return processor, AudioTokenizer.from_config(self.config.codec, device)


def _restorer(config: SynthesisConfig, device: str) -> "Restorer | None":
    source = config.processing.restore_ckpt_dir
    if source is None:
        return None
    from open_miipher.restoration import DEFAULT_MODEL, Restorer

    path = DEFAULT_MODEL if source == "default" else source
    return Restorer.from_checkpoint(path, batch_size=config.tts.batch_size, device=device)


@dataclass(frozen=True)
class Begun:
    """The texts that a worker is at from now on."""

    indices: list[str]


class _Speaker:
    def __init__(
        self,
        config: SynthesisConfig,
        processor: TTSProcessor,
        codec: "AudioTokenizer",
        restorer: "Restorer | None",
    ) -> None:
        self._config, self._processor = config, processor
        self._codec, self._restorer = codec, restorer
        # While the device speaks the next batch, the one before is judged, encoded and written.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writers = ThreadPoolExecutor(max_workers=_WRITERS)

    def speak(self, group: Item) -> Iterator[Begun | list[Said]]:
        """Speak a group of texts, longest first, batch by batch.

        Raises:
            UserError: the disk refuses.
        """
        texts: list[Text] = group.details
        size, pending = self._config.tts.batch_size, deque[Future[list[Said]]]()
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            yield Begun([text.index for text in batch])
            pending.append(self._thread.submit(self._finish, self._sounds(batch)))
            while pending and (pending[0].done() or len(pending) > _AHEAD):
                yield pending.popleft().result()
        for future in pending:
            yield future.result()

    def _sounds(self, batch: list[Text]) -> list[tuple[Text, np.ndarray | str]]:
        """Return the sound of every text, or why there is none."""
        import torch

        texts, seeds = [text.text for text in batch], [text.seed for text in batch]
        try:
            said = attempt(self._processor.speak, texts, seeds)
        except torch.AcceleratorError as error:  # no later call in this process would go well
            raise SystemExit(1) from error
        return list(zip(batch, said, strict=True))

    def _finish(self, sounds: list[tuple[Text, np.ndarray | str]]) -> list[Said]:
        """Judge, restore, turn into tokens and write what was said of a batch."""
        rate = self._processor.sample_rate
        judged = [
            (text, sound if isinstance(sound, str) else problem_with(sound, rate, text.expected))
            for text, sound in sounds
        ]
        said = [Said(text.index, problem) for text, problem in judged if problem is not None]
        good = [each for each, (_, problem) in zip(sounds, judged, strict=True) if problem is None]
        texts = [text for text, _ in good]
        waveforms = [np.asarray(sound) for _, sound in good]
        if self._restorer is not None and good:
            restored, rate = _restored(self._restorer, waveforms, rate)
            pairs = list(zip(texts, restored, strict=True))
            said += [Said(text.index, r) for text, r in pairs if isinstance(r, str)]
            texts = [text for text, r in pairs if not isinstance(r, str)]
            waveforms = [r for r in restored if not isinstance(r, str)]
        tokens = self._tokens(waveforms, rate)
        rates = [rate] * len(texts)
        return [*said, *self._writers.map(self._kept, texts, waveforms, rates, tokens)]

    def _tokens(self, waveforms: list[np.ndarray], rate: int) -> list[np.ndarray]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        if not waveforms:
            return []
        at_codec = [torch.from_numpy(resample(w, rate, self._codec.sample_rate)) for w in waveforms]
        lengths = torch.tensor([len(waveform) for waveform in at_codec])
        return [t.numpy() for t in self._codec.encode(pad_sequence(at_codec, True), lengths)]

    def _kept(self, text: Text, sound: np.ndarray, rate: int, tokens: np.ndarray) -> Said:
        processing, keep = self._config.processing, self._config.output.keep_audio
        waveform = resample(sound, rate, processing.sample_rate)
        path = self._config.folder / text.output
        audio, size = None, 0
        if keep == "files":
            path.parent.mkdir(parents=True, exist_ok=True)
            with AudioWriter(path, processing.sample_rate, 1, format="flac") as writer:
                writer.write(waveform[None])
            size = path.stat().st_size
        elif keep == "shards":
            memory = MemoryWriter(text.output, processing.sample_rate, 1, format="flac")
            memory.write(waveform[None])
            audio = memory.finish()
            size = len(audio)
        made_by = self._processor.fingerprint, self._codec.fingerprint
        return Said(text.index, None, tokens, len(waveform), audio, size, *made_by)


def _restored(
    restorer: "Restorer", waveforms: Sequence[np.ndarray], rate: int
) -> tuple[list[np.ndarray | str], int]:
    """Restore waveforms, chunks of several in one batch.

    Returns:
        Each, or why it could not be restored; and their sample rate.
    """
    from open_miipher.restoration import Source
    from open_miipher.restoration.streams import ArraySink

    sinks = [ArraySink() for _ in waveforms]
    jobs = [
        restorer.job(Source.from_array(waveform[None], rate), sink)
        for waveform, sink in zip(waveforms, sinks, strict=True)
    ]
    for _ in restorer.restore_jobs(jobs):
        pass
    done = zip(jobs, sinks, strict=True)
    sounds = [s.waveform[0] if job.error is None else str(job.error) for job, s in done]
    return sounds, jobs[0].sample_rate
